# SPDX-License-Identifier: Apache-2.0
"""What machine an ELF file is for (System V ABI, "ELF Header")."""

from __future__ import annotations

import struct

X86_64 = "x86-64"
_CLASS_32 = 1
_NAMES = {
    3: "x86 of 32 bits",
    8: "MIPS",
    21: "PowerPC",
    22: "s390",
    40: "ARM",
    62: X86_64,
    183: "aarch64",
    243: "RISC-V",
}


def machine_of(data: bytes) -> str:
    """Return the name of the machine that an ELF file, or its beginning, is for."""
    (machine,) = struct.unpack_from("<H" if data[5] == 1 else ">H", data, 18)
    name = _NAMES.get(machine, f"machine {machine}")
    # Programs whose pointers have 32 bits for processors of 64, as of the x32 ABI, are of the same machine.
    return f"{name} of 32 bits" if name == X86_64 and data[4] == _CLASS_32 else name
