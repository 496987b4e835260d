# SPDX-License-Identifier: Apache-2.0
"""Initrds and disk images that somebody else has built."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest

from kvtest.errors import RecipeError
from kvtest.image.cpio import Archive
from kvtest.image.root_file import read_disk, read_initrd

EXT4 = bytes(1080) + b"\x53\xef" + bytes(1000)
EROFS = bytes(1024) + b"\xe2\xe1\xf5\xe0" + bytes(1000)


def mbr(kind: int, start: int) -> bytes:
    """Return a first sector with one partition."""
    entry = struct.pack("<B3xB3xII", 0, kind, start, 100)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


def gpt(start: int) -> bytes:
    """Return a protective MBR, the header of a GPT, and a table with one partition."""
    header = b"EFI PART" + bytes(64) + struct.pack("<Q", 2) + bytes(432)
    entry = bytes(32) + struct.pack("<QQ", start, start + 100) + bytes(80)
    return mbr(0xEE, 1) + header + entry


@pytest.mark.parametrize(
    ("data", "partitioned", "file_system"),
    [
        (EXT4, False, "ext4"),
        (EROFS, False, "erofs"),
        (b"XFSB" + bytes(3000), False, "xfs"),
        (mbr(0x83, 8) + bytes(7 * 512) + EXT4, True, "ext4"),
        (gpt(8).ljust(8 * 512, b"\0") + EROFS, True, "erofs"),
    ],
    ids=["ext4", "erofs", "xfs", "MBR", "GPT"],
)
def test_what_a_disk_holds(tmp_path: Path, data: bytes, partitioned: bool, file_system: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(data)
    disk = read_disk(path)
    assert (disk.path, disk.partitioned, disk.file_system) == (path, partitioned, file_system)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"QFI\xfb" + bytes(3000), "has no file system that is known: xfs"),
        (b"", "has no file system that is known"),
        (mbr(0x83, 8) + bytes(8000), "has no file system that is known in its first partition"),
        (mbr(0xEE, 1) + bytes(8000), "has a damaged table of partitions"),
    ],
    ids=["qcow2", "empty", "partition", "GPT"],
)
def test_a_disk_without_a_root(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=message):
        read_disk(path)


def test_an_initrd_is_an_archive_compressed_or_not(tmp_path: Path) -> None:
    plain, packed, text = tmp_path / "plain", tmp_path / "packed", tmp_path / "text"
    plain.write_bytes(Archive().finish())
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    text.write_text("not one")
    assert [read_initrd(plain), read_initrd(packed)] == [plain, packed]
    with pytest.raises(RecipeError, match="text is no initrd"):
        read_initrd(text)


@pytest.mark.parametrize("read", [read_initrd, read_disk])
def test_a_file_that_does_not_exist(tmp_path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(RecipeError, match=r"could not read the \w+( \w+)? .*/none: No such file"):
        read(tmp_path / "none")
