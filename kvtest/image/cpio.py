# SPDX-License-Identifier: Apache-2.0
"""The cpio "newc" format, as Linux reads an initramfs (Documentation/driver-api/early-userspace/buffer-format.rst).

Written here rather than by cpio(1), because an archive has to come out the same byte for byte, hold device nodes, and
belong to root, whoever builds it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_MAGIC = b"070701"
_HEADER = 110
_BLOCK = 512
_TRAILER = "TRAILER!!!"


class Archive:
    """An archive in the making. Every entry belongs to root and has no time."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def directory(self, name: str, mode: int = 0o755) -> None:
        """Add a directory."""
        self._add(name, stat.S_IFDIR | mode)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._add(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(name, stat.S_IFLNK | 0o777, os.fsencode(target))

    def character_device(self, name: str, major: int, minor: int, mode: int) -> None:
        """Add a character device."""
        self._add(name, stat.S_IFCHR | mode, device=(major, minor))

    def tree(self, root: Path) -> None:
        """Add everything below a directory, sorted by name; other kinds than files, links and directories are left out.

        Args:
            root: The directory; its own name does not appear.
        """
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                self.link(name, os.readlink(path))
            elif stat.S_ISDIR(mode):
                self.directory(name)
            elif stat.S_ISREG(mode):
                self.file(name, path.read_bytes(), 0o755 if mode & stat.S_IXUSR else 0o644)

    def finish(self) -> bytes:
        """Return the archive, with its trailer, as whole blocks so that another can follow."""
        self._add(_TRAILER, 0)
        data = b"".join(self._parts)
        return data + b"\0" * (-len(data) % _BLOCK)

    def _add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        encoded = os.fsencode(name) + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        values = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(encoded), 0)
        head = _MAGIC + b"".join(b"%08x" % value for value in values) + encoded
        self._parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]


def extract(archive: bytes, directory: Path, offset: int = 0) -> int:
    """Unpack the directories, files and links of one archive; device nodes are left out.

    Args:
        archive: One archive or more, each as :meth:`Archive.finish` returns it.
        directory: Where to; names that would lead out of it are refused.
        offset: Where the archive begins.

    Returns:
        Where the next archive begins.

    Raises:
        ValueError: It is not such an archive.
    """
    directory.mkdir(parents=True, exist_ok=True)
    while True:
        head = archive[offset : offset + _HEADER]
        if len(head) < _HEADER or head[:6] != _MAGIC:
            raise ValueError(f"no cpio header at byte {offset}")
        fields = [int(head[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[offset + _HEADER : offset + _HEADER + name_size - 1].decode()
        begin = _aligned(offset + _HEADER + name_size)
        if name == _TRAILER:
            return begin + (-begin % _BLOCK)
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"a name leads out of the archive: {name!r}")
        data, target = archive[begin : begin + size], directory / name
        if stat.S_ISDIR(mode):
            target.mkdir(parents=True, exist_ok=True)
        elif stat.S_ISLNK(mode):
            target.symlink_to(os.fsdecode(data))
        elif stat.S_ISREG(mode):
            target.write_bytes(data)
            target.chmod(stat.S_IMODE(mode))
        offset = _aligned(begin + size)


def _aligned(offset: int) -> int:
    return offset + (-offset % 4)
