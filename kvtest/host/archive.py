# SPDX-License-Identifier: Apache-2.0
"""Archives from another machine, which is not to decide where on this one its files get to."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from kvtest.errors import HostError


def unpack(archive: Path, directory: Path) -> None:
    """Unpack files, directories and links within the directory; anything else in the archive is left out.

    Not with ``TarFile.extractall(filter="data")``, which the Python of Debian 12 does not have.

    Args:
        archive: The archive (tar(5)), compressed or not.
        directory: Where to.

    Raises:
        HostError: It is no archive, or is cut off, or something in it leads out of the directory.
        OSError: A file could not be written.
    """
    directory = directory.resolve()
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                _take(tar, member, directory)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise HostError(
            f"what was brought is no archive of artifacts: {error}", hint="run it again; has the disk there room?"
        ) from error


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, directory: Path) -> None:
    name = PurePosixPath(member.name)
    path = directory / name
    if name.is_absolute() or ".." in name.parts or path.parent.resolve() != path.parent:
        raise _leads_out(member.name, directory)
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    if not (member.isreg() or member.issym()):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if member.issym():
        if not _stays(name.parent, PurePosixPath(member.linkname)):
            raise _leads_out(f"{member.name} -> {member.linkname}", directory)
        path.symlink_to(member.linkname)
        return
    content = tar.extractfile(member)
    assert content is not None  # of a regular file there is some
    with content, path.open("wb") as stream:
        shutil.copyfileobj(content, stream)
    path.chmod(0o755 if member.mode & 0o100 else 0o644)


def _stays(parent: PurePosixPath, target: PurePosixPath) -> bool:
    """Whether a link in a directory whose own path has no links leads to a place that is not above the first one.

    A target that goes up after it has gone down may do so from wherever another link leads.
    """
    down = [number for number, part in enumerate(target.parts) if part != ".."]
    up = down[0] if down else len(target.parts)
    return not target.is_absolute() and up <= len(parent.parts) and down == list(range(up, len(target.parts)))


def _leads_out(what: str, directory: Path) -> HostError:
    return HostError(f"what was brought has {what!r}, which leads out of {directory}", hint="who made it?")
