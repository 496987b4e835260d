# SPDX-License-Identifier: Apache-2.0
"""A kernel that somebody else has built, by the path of its image: what it is, and how it was configured.

The format of a bzImage is in the kernel's Documentation/arch/x86/boot.rst; a kernel with CONFIG_IKCONFIG holds its own
configuration, compressed, between two marks (kernel/configs.c).
"""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from kvtest.errors import KvtestError, RecipeError
from kvtest.image.kernel_config import KernelConfig, parse_config
from kvtest.image.machines import X86_64, machine_of
from kvtest.ownership import run, temporary_directory

_SETUP_MAGIC = b"HdrS"
_SETUP_MAGIC_AT = 0x202
_SECTOR = 512
_BOOT_OF_64_BITS = 1  # XLF_KERNEL_64
_ARM64_MAGIC = b"ARM\x64"
_ARM64_MAGIC_AT = 0x38
_IKCONFIG = b"IKCFG_ST"
_BANNER = re.compile(rb"Linux version (\S+) ")
_UNPACKING_SECONDS = 30.0
_SIZE = 4  # bytes behind the compressed program
_HINT = "a bzImage, as in arch/x86/boot, or an ELF vmlinux"


@frozen
class KernelFile:
    """A kernel to boot.

    Args:
        path: Its image.
        release: As ``uname -r`` prints it; empty where the image does not tell.
        config: How it was configured.
        unread: Why that is not known, where it is not.
    """

    path: Path
    release: str
    config: KernelConfig | None
    unread: str = ""

    def __str__(self) -> str:
        return f"kernel {self.path}" + (f" ({self.release})" if self.release else "")


def read_kernel(path: Path) -> KernelFile:
    """Return what a kernel's image tells.

    Raises:
        RecipeError: There is none, it is no kernel, or one for another machine.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"could not read the kernel {path}: {error.strerror}") from error
    if data[_SETUP_MAGIC_AT : _SETUP_MAGIC_AT + 4] == _SETUP_MAGIC:
        if not struct.unpack_from("<H", data, 0x236)[0] & _BOOT_OF_64_BITS:
            raise _other_machine(path, "x86 of 32 bits")
        release, program = _release_of_bzimage(data), lambda: _unpacked(data)
    elif data[:4] == b"\x7fELF":
        if (machine := machine_of(data)) != X86_64:
            raise _other_machine(path, machine)
        found = _BANNER.search(data)
        release, program = found[1].decode(errors="replace") if found else "", lambda: data
    elif data[_ARM64_MAGIC_AT : _ARM64_MAGIC_AT + 4] == _ARM64_MAGIC:
        raise _other_machine(path, "aarch64")
    else:
        raise RecipeError(f"{path} is no Linux kernel for x86-64", hint=_HINT)
    config, unread = _config(path, release, program)
    return KernelFile(path, release, config, unread)


def _other_machine(path: Path, name: str) -> RecipeError:
    return RecipeError(f"the kernel {path} is for {name}, guests are x86-64", hint=_HINT)


def _release_of_bzimage(data: bytes) -> str:
    (offset,) = struct.unpack_from("<H", data, 0x20E)
    text = data[_SECTOR + offset : _SECTOR + offset + 256] if offset else b""
    return text.split(b"\0")[0].split(b" ")[0].decode(errors="replace")


def _config(path: Path, release: str, program: Callable[[], bytes | str]) -> tuple[KernelConfig | None, str]:
    """Return the configuration: a file beside the kernel, else what it holds itself, else why there is none."""
    # Kata's vmlinuz.container leads to a name with the version, and so does that of its configuration.
    for place in dict.fromkeys((path, path.resolve())):
        suffix = place.name.partition("-")[2]
        names = [f"config-{release}" if release else "", f"config-{suffix}" if suffix else "", "config", ".config"]
        for name in filter(None, names):
            beside = place.with_name(name)
            if beside.is_file():
                return parse_config(beside.read_text(errors="replace"), str(beside)), ""
    inner = program()
    if isinstance(inner, str):
        return None, f"there is no config-* beside it, and {inner}"
    start = inner.find(_IKCONFIG)
    if start < 0:
        return None, "there is no config-* beside it, and it was built without CONFIG_IKCONFIG"
    try:
        text = zlib.decompressobj(wbits=31).decompress(inner[start + len(_IKCONFIG) :])
    except zlib.error as error:
        return None, f"there is no config-* beside it, and its own could not be unpacked: {error}"
    return parse_config(text.decode(errors="replace"), f"{path} itself"), ""


def _unpacked(data: bytes) -> bytes | str:
    """Return the program in a bzImage, or why it could not be had."""
    sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    begin = (sectors + 1) * _SECTOR + offset
    payload = data[begin : begin + length]
    try:
        if payload[:2] == b"\x1f\x8b":
            return zlib.decompressobj(wbits=31).decompress(payload)
        if payload[:6] == b"\xfd7zXZ\0":
            return lzma.LZMADecompressor().decompress(payload)
        if payload[:3] == b"BZh":
            return bz2.BZ2Decompressor().decompress(payload)
        if payload[:3] == b"\x5d\0\0":
            return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(payload)
        if payload[:4] == b"\x28\xb5\x2f\xfd":
            return _unpacked_by("zstd", payload)
        if payload[:4] == b"\x02\x21\x4c\x18":
            return _unpacked_by("lz4", payload)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        return f"it could not be unpacked: {error}"
    return "it is compressed in a way that is not known"


def _unpacked_by(program: str, payload: bytes) -> bytes | str:
    with temporary_directory(Path(tempfile.gettempdir()), "kvtest-kernel-") as scratch:
        packed, unpacked = scratch / "packed", scratch / "unpacked"
        packed.write_bytes(payload[:-_SIZE])
        target = ["-o", unpacked] if program == "zstd" else [unpacked]
        try:
            done = run([program, "-d", "-q", "-f", packed, *target], deadline=_UNPACKING_SECONDS)
        except KvtestError as error:
            return f"it is compressed with {program}: {error.message}"
        if done.status != 0 or not unpacked.is_file():
            return f"{program} could not unpack it: {(done.stderr or done.stdout).strip()[:200]}"
        return unpacked.read_bytes()
