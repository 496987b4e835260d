# SPDX-License-Identifier: Apache-2.0
"""The root file system of a guest that somebody else has built: an initrd, or a disk image, by its path."""

from __future__ import annotations

import struct
from pathlib import Path

from attrs import frozen

from kvtest.errors import RecipeError

# How an initramfs begins (Documentation/driver-api/early-userspace/buffer-format.rst), and what compresses one.
_INITRAMFS = {
    b"070701": "cpio",
    b"070702": "cpio",
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x02\x21\x4c\x18": "lz4",
    b"BZh": "bzip2",
    b"\x5d\0\0": "lzma",
    b"\x89LZO": "lzo",
}
_SECTOR = 512
_BOOT_SIGNATURE = b"\x55\xaa"
_FIRST_ENTRY = 446
_PROTECTIVE = 0xEE  # the only partition in front of a GPT
_GPT_MAGIC = b"EFI PART"
# Where a file system has its magic number, and which.
_FILE_SYSTEMS = (
    (0, b"XFSB", "xfs"),
    (0, b"hsqs", "squashfs"),
    (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
    (1024 + 56, b"\x53\xef", "ext4"),
)
_HEAD = 2048
_HINT = "an image that Kata's image builder makes: a raw disk, with one partition or none"


@frozen
class DiskFile:
    """A disk image that holds the root file system of a guest.

    Args:
        path: The image, raw.
        partitioned: Whether the root is its first partition, and not the whole disk.
        file_system: Name of the root's file system.
    """

    path: Path
    partitioned: bool
    file_system: str


def read_initrd(path: Path) -> Path:
    """Return the path of an initrd.

    Raises:
        RecipeError: There is none, or it is none.
    """
    head = _read(path, "the initrd", 0, 16)
    if not head.startswith(tuple(_INITRAMFS)):
        raise RecipeError(f"{path} is no initrd", hint="a cpio archive of the format newc, compressed or not")
    return path


def read_disk(path: Path) -> DiskFile:
    """Return what a disk image holds.

    Raises:
        RecipeError: There is none, or nothing that a guest can have as its root.
    """
    head = _read(path, "the disk image", 0, _HEAD)
    start = _first_partition(path, head)
    found = _file_system(head if start is None else _read(path, "the disk image", start, _HEAD))
    if found is None:
        where = "" if start is None else " in its first partition"
        known = ", ".join(name for _, _, name in _FILE_SYSTEMS)
        raise RecipeError(f"{path} has no file system that is known{where}: {known}", hint=_HINT)
    return DiskFile(path, start is not None, found)


def _first_partition(path: Path, head: bytes) -> int | None:
    """Return where the first partition begins, or ``None`` where there is no table of partitions."""
    if head[510:512] != _BOOT_SIGNATURE:
        return None
    kind, start = head[_FIRST_ENTRY + 4], struct.unpack_from("<I", head, _FIRST_ENTRY + 8)[0]
    if kind == 0:
        return None
    if kind != _PROTECTIVE:
        return int(start) * _SECTOR
    if head[_SECTOR : _SECTOR + 8] != _GPT_MAGIC:
        raise RecipeError(f"{path} has a damaged table of partitions", hint=_HINT)
    (entries,) = struct.unpack_from("<Q", head, _SECTOR + 72)
    (first,) = struct.unpack_from("<Q", _read(path, "the disk image", entries * _SECTOR, 128), 32)
    return int(first) * _SECTOR


def _file_system(head: bytes) -> str | None:
    return next((name for at, magic, name in _FILE_SYSTEMS if head[at : at + len(magic)] == magic), None)


def _read(path: Path, what: str, offset: int, size: int) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
    except OSError as error:
        raise RecipeError(f"could not read {what} {path}: {error.strerror}") from error
    return data.ljust(size, b"\0")
