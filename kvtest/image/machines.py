# SPDX-License-Identifier: Apache-2.0
"""What machine an ELF file is for (System V ABI, "ELF Header")."""

from __future__ import annotations

import struct

X86_64 = "x86-64"
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
    return _NAMES.get(machine, f"machine {machine}")
