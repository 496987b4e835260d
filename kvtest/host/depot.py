# SPDX-License-Identifier: Apache-2.0
"""What stays on another machine between runs: files by their SHA-256, and directories made of them.

This file is sent to the other machine together with ``attendant.py`` and stands alone, as that one does.

A file is an object ``objects/ab/abcd…``, in place only when it is whole and what its name says. A directory is made of
links to objects, beside its place, and renamed. What no run has asked for in a while is removed, and then the objects
that nothing is made of any more. A directory of which a file is gone or has another size is mended.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

_TREE_SECONDS = 14 * 86400.0
# How many of a kind stay so long; each change of guest code makes an image and a template of some 100 MB.
_KEPT = 8
_SPARE_SECONDS = 3600.0  # a run may be using it
_OBJECT_SECONDS = 86400.0  # somebody may have sent it, and not have made anything of it yet
_TREES = ("sites/*", "files/*", "cache/images/*", "cache/carried/*")
_NEW = ".new-"

# A file's SHA-256, its size, and whether it is a program.
Wanted = tuple[str, int, bool]
# By the place of a directory: its files.
Trees = Mapping[str, Mapping[str, Wanted]]


class Depot:
    """The directory.

    Args:
        base: Where it is; made if need be, for its user alone.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._objects = base / "objects"
        self._open: tuple[str, Path] | None = None

    def missing(self, trees: Trees) -> list[str]:
        """Return the objects that have to come before directories are whole; those that are there count as used."""
        wanted: dict[str, None] = {}
        for place, files in trees.items():
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.base / place)
            for name in self._damaged(place, files):
                digest, size, _ = files[name]
                if not self._is_whole(digest, size):
                    wanted[digest] = None
        return list(wanted)

    def take(self, digest: str, offset: int, packed: bytes, size: int | None) -> None:
        """Take a piece of an object; one after the other, from the beginning of each, holes left out.

        Args:
            digest: The object.
            offset: Where the piece belongs.
            packed: The piece, compressed.
            size: The size of the object with its last piece, else ``None``.

        Raises:
            OSError: The file system does not take it.
            ValueError: It is not what its name says.
        """
        if self._open is None or self._open[0] != digest:
            self.drop()
            self._objects.mkdir(exist_ok=True)
            path = self._objects / (_NEW + secrets.token_hex(8))
            path.touch(mode=0o600)
            self._open = digest, path
        path = self._open[1]
        with path.open("r+b") as stream:
            stream.seek(offset)
            stream.write(zlib.decompress(packed))
            if size is not None:
                stream.truncate(size)
        if size is not None:
            with path.open("rb") as stream:
                if (seen := hashlib.file_digest(stream, "sha256").hexdigest()) != digest:
                    raise ValueError(f"what came as {digest} is {seen}")
            target = self._object(digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
            self._open = None

    def drop(self) -> None:
        """Remove an object of which only a part has come."""
        if self._open is not None:
            self._open[1].unlink(missing_ok=True)
            self._open = None

    def settle(self, trees: Trees) -> None:
        """Make the directories that are not there, and mend those of which something is missing.

        Raises:
            OSError: The file system does not take them.
        """
        for place, files in trees.items():
            damaged = self._damaged(place, files)
            if not damaged:
                continue
            target = self.base / place
            if target.exists():
                # File by file, as another run may be using the rest.
                with contextlib.suppress(FileExistsError, IsADirectoryError, NotADirectoryError):
                    for name in damaged:
                        self._mend(target / name, *files[name])
                    continue
                self._discard(target)  # something else is where a file or a directory belongs
            target.parent.mkdir(parents=True, exist_ok=True)
            new = target.with_name(_NEW + secrets.token_hex(8))
            try:
                for name, wanted in files.items():
                    self._make(new / name, *wanted)
                with contextlib.suppress(OSError):  # another run was faster
                    new.rename(target)
            finally:
                shutil.rmtree(new, ignore_errors=True)

    def _make(self, path: Path, digest: str, _: int, executable: bool) -> None:
        """Make a file of its object."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self._object(digest), path)
        except OSError:  # too many links, or a file system that has none
            shutil.copyfile(self._object(digest), path)
        if executable:  # of links to one object all are then, which does no harm
            path.chmod(0o700)

    def _mend(self, path: Path, digest: str, size: int, executable: bool) -> None:
        """Put a file in the place of one that is not there or not what it was."""
        new = path.with_name(_NEW + secrets.token_hex(8))
        try:
            self._make(new, digest, size, executable)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)

    def _damaged(self, place: str, files: Mapping[str, Wanted]) -> list[str]:
        """Return the files of a directory that are not there, have another size, or should be programs and are not.

        What they hold is not read: it is some 200 MB. What else is there is of Python, or of runs.
        """
        return [name for name, wanted in files.items() if not _is_like(f"{self.base}/{place}/{name}", *wanted)]

    def _is_whole(self, digest: str, size: int) -> bool:
        """Whether an object is there, and what its name says."""
        path = self._object(digest)
        if not _is_like(str(path), digest, size, False):
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == digest

    def forget_old(self) -> None:
        """Remove what no run has asked for in a while."""
        now = time.time()
        for pattern in _TREES:
            used = {path: _modified(path) for path in self.base.glob(pattern)}
            recent = sorted((path for path in used if not path.name.startswith(_NEW)), key=lambda path: -used[path])
            for path, last in used.items():
                if last < now - (_TREE_SECONDS if path in recent[:_KEPT] else _SPARE_SECONDS):
                    self._discard(path)
        for path in (*self._objects.glob(f"{_NEW}*"), *self._objects.glob("??/*")):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_nlink == 1 and _modified(path) < now - _OBJECT_SECONDS:
                    path.unlink()

    def _discard(self, tree: Path) -> None:
        """Remove a directory."""
        doomed = tree.with_name(_NEW + secrets.token_hex(8))
        with contextlib.suppress(FileNotFoundError):  # another run has removed it
            tree.rename(doomed)  # first, so that nobody finds half of it
            shutil.rmtree(doomed, ignore_errors=True)

    def _object(self, digest: str) -> Path:
        return self._objects / digest[:2] / digest


class RunPlace:
    """The directory of one run, for its user alone, locked as long as it is in use.

    Args:
        depot: Where it is made. Those of runs that have ended without removing theirs are removed.
    """

    def __init__(self, depot: Depot) -> None:
        parent = depot.base / "runs"
        parent.mkdir(exist_ok=True, mode=0o700)
        for left in parent.iterdir():
            lock = _lock(left)
            if lock is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)
        while True:
            self.path = parent / secrets.token_hex(6)
            self.path.mkdir(mode=0o700)
            held = _lock(self.path)
            if held is not None and self.path.exists():  # nobody has taken it for left behind
                self._lock = held
                return

    def remove(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _is_like(path: str, _: str, size: int, executable: bool) -> bool:
    """Whether a file is there that may be what is wanted."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size and (not executable or bool(status.st_mode & 0o100))


def _modified(path: Path) -> float:
    """Return when something was modified last; now if it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _lock(path: Path) -> int | None:
    """Lock a directory; return the descriptor that holds the lock, ``None`` where it is gone or another's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
