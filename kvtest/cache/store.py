# SPDX-License-Identifier: Apache-2.0
"""The cache: directories that are complete or absent, whose files are what was put there.

An entry is built in a directory beside it and renamed. Each file's SHA-256 is in the entry's manifest and is checked
on use. Hashing an image takes longer than a look-up may, so a check is remembered together with the file's inode,
size, and times of modification and change; a file that differs in any of them is hashed again. Who can set all four
back can also rewrite the manifest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
from attrs import frozen

from kvtest.cache.progress import Progress
from kvtest.errors import CacheError
from kvtest.ownership import temporary_directory, write_atomically
from kvtest.ownership.use import alone

_MANIFEST = "manifest.json"
_VERIFIED = "verified.json"
_BUILDING = ".building-"

# Fills a directory with files and returns what else the manifest is to say.
Build = Callable[[Path], dict[str, Any]]


@frozen
class Entry:
    """One entry of the cache.

    Args:
        path: Its directory.
        manifest: What its builder said, and ``files`` with their sizes and digests.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(int(file["size"]) for file in self.manifest["files"].values())


class Store:
    """A directory of entries.

    Args:
        root: The directory; made when first needed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, name: str, build: Build, progress: Progress) -> Entry:
        """Return an entry, built if it is absent or no longer what it was.

        Args:
            name: Its name, which has to change whenever its contents would.
            build: Builds it.
            progress: Told when this waits for another process that builds the same entry.

        Raises:
            CacheError: The cache cannot be written.
        """
        entry = self.find(name)
        if entry is not None:
            return entry
        with _explained(self.root), self._locked(name, progress):
            entry = self.find(name)  # whoever held the lock may have built it
            if entry is not None:
                return entry
            if (self.root / name).exists():
                with progress(f"{name} in the cache is corrupt: building it again"):
                    self._remove(name)
            for leftover in self.root.glob(f"{_BUILDING}{name}-*"):  # of a builder that was killed
                shutil.rmtree(leftover)
            return self._build(name, build)

    def find(self, name: str) -> Entry | None:
        """Return an entry if it is there and intact."""
        path = self.root / name
        try:
            manifest = json.loads((path / _MANIFEST).read_bytes())
            intact = _intact(path, manifest["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Entry(path, manifest) if intact else None

    def names(self) -> list[str]:
        """Return the names of all entries, intact or not."""
        with _explained(self.root):
            if not self._there():
                return []
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and not path.name.startswith("."))

    def prune(self, keep: Callable[[str], bool]) -> list[str]:
        """Remove entries and what killed builders left; what is being built or used at this moment stays.

        Args:
            keep: Whether an entry stays.

        Returns:
            The names of what was removed.
        """
        removed = [path.name for path in self.half_made(remove=True)]
        names = [name for name in self.names() if not keep(name)]
        with _explained(self.root):
            for name in names:
                with (
                    contextlib.suppress(filelock.Timeout),
                    self._lock(name).acquire(blocking=False),
                    alone(self.root / name) as unused,
                ):
                    if unused:
                        self._remove(name)
                        removed.append(name)
        return removed

    def used(self, name: str) -> None:
        """Take note that an entry is used at this moment.

        Args:
            name: Its name.
        """
        with contextlib.suppress(OSError):  # a cache that cannot be written has nothing to forget
            os.utime(self.root / name)

    def forget_old(self, kept: int, seconds: float) -> list[str]:
        """Remove what has not been used for long, and is not in use.

        Args:
            kept: How many entries stay however old they are, the youngest.
            seconds: For how long the others stay without being used.

        Returns:
            The names of what was removed.
        """
        used = {name: (self.root / name).stat().st_mtime for name in self.names()}
        recent = sorted(used, key=lambda name: used[name])[len(used) - kept if kept < len(used) else 0 :]
        oldest = time.time() - seconds
        return self.prune(lambda name: name in recent or used.get(name, oldest) >= oldest)

    def half_made(self, *, remove: bool) -> list[Path]:
        """Return what builders left that were killed together with all that would have cleaned up after them.

        Args:
            remove: Whether to remove it. What is being built at this moment is never touched.
        """
        found = []
        with _explained(self.root):
            for path in sorted(self.root.glob(f"{_BUILDING}*")) if self._there() else []:
                if not path.is_dir():
                    continue
                name = path.name.removeprefix(_BUILDING).rsplit("-", 1)[0]
                with contextlib.suppress(filelock.Timeout), self._lock(name).acquire(blocking=False):
                    found.append(path)
                    if remove:
                        shutil.rmtree(path)
        return found

    def _there(self) -> bool:
        try:
            return stat.S_ISDIR(self.root.stat().st_mode)
        except FileNotFoundError:
            return False

    def _lock(self, name: str) -> filelock.FileLock:
        directory = self.root / ".locks"
        directory.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(directory / f"{name}.lock")

    @contextlib.contextmanager
    def _locked(self, name: str, progress: Progress) -> Iterator[None]:
        lock = self._lock(name)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            with progress(f"waiting for another process that builds {name}"):
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _build(self, name: str, build: Build) -> Entry:
        with temporary_directory(self.root, f"{_BUILDING}{name}-") as building:
            manifest = build(building)
            manifest["files"] = {
                path.name: {"size": path.stat().st_size, "sha256": digest(path)} for path in sorted(building.iterdir())
            }
            (building / _MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
            for path in (*building.iterdir(), building):
                _flush(path)
            building.chmod(0o755)
            building.rename(self.root / name)
        _flush(self.root)
        return Entry(self.root / name, manifest)

    def _remove(self, name: str) -> None:
        # Renamed first, so that nobody finds half of it.
        with temporary_directory(self.root, f"{_BUILDING}{name}-") as doomed:
            (self.root / name).rename(doomed / "removed")


def _intact(path: Path, files: dict[str, dict[str, Any]]) -> bool:
    identities = {name: _identity(path / name) for name in files}
    with contextlib.suppress(OSError, ValueError):
        if json.loads((path / _VERIFIED).read_bytes()) == identities:
            return True
    for name, file in files.items():
        if identities[name][1] != file["size"] or digest(path / name) != file["sha256"]:
            return False
    # A cache that cannot be written is checked on every use.
    with contextlib.suppress(OSError):
        write_atomically(path / _VERIFIED, json.dumps(identities))
    return True


def trust(root: str) -> None:
    """Take all entries of a store for intact, without a look at their files: those came as a whole that was checked.

    Args:
        root: The store's directory; it can be another machine's, which this is sent to.
    """
    for manifest in Path(root).glob(f"*/{_MANIFEST}"):
        files = json.loads(manifest.read_bytes())["files"]
        identities = {name: _identity(manifest.parent / name) for name in files}
        (manifest.parent / _VERIFIED).write_text(json.dumps(identities))


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Turn a failure of the file system into one message."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        expected = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
        if not full and not expected and (error.errno != errno.ENOENT or root.exists()):
            raise
        raise CacheError(
            f"could not write to the cache {root}: {error.strerror}",
            hint="free space, run `kvtest image prune`, or choose another with --cache"
            if full
            else "choose another with --cache",
        ) from error
