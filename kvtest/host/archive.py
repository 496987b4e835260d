# SPDX-License-Identifier: Apache-2.0
"""Archives from another machine, which is not to decide where on this one its files get to."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from kvtest.errors import HostError


def unpack(archive: Path, directory: Path) -> None:
    """Unpack the files and directories of an archive; anything else in it is left out.

    Not with ``TarFile.extractall(filter="data")``, which the Python of Debian 12 does not have.

    Args:
        archive: The archive (tar(5)), compressed or not.
        directory: Where to.

    Raises:
        HostError: It is no archive, or is cut off, or has names that lead out of the directory.
        OSError: A file could not be written.
    """
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
    if name.is_absolute() or ".." in name.parts:
        raise HostError(f"an artifact is called {member.name!r}, which leads out of {directory}", hint="who made it?")
    path = directory / name
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    content = tar.extractfile(member) if member.isreg() else None
    if content is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with content, path.open("wb") as stream:
        shutil.copyfileobj(content, stream)
    path.chmod(0o755 if member.mode & 0o100 else 0o644)
