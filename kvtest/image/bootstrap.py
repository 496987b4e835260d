# SPDX-License-Identifier: Apache-2.0
"""Packages of a distribution, unpacked by mmdebstrap; apt checks their signatures."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from kvtest.deadline import Deadline
from kvtest.errors import DeadlineExceededError, ImageError, MissingToolError
from kvtest.ownership import OwnedProcess

_PATIENCE = 600.0
_LISTING = "kvtest-packages"
_CHOSEN = re.compile(r"""\bmy \$mirror\s*=\s*['"]([^'"]+)['"]""")
# Directories of the root that are links into usr.
MERGED = ("bin", "lib", "lib64", "sbin")


def default_mirror() -> str | None:
    """Return where mmdebstrap has packages of Debian from if nobody says otherwise, as its program says.

    Returns:
        A URL; ``None`` if there is no mmdebstrap, or it cannot be told.
    """
    program = shutil.which("mmdebstrap")
    found = _CHOSEN.search(Path(program).read_text(errors="replace")) if program is not None else None
    return None if found is None else found[1]


def unpack(suite: str, packages: Sequence[str], mirror: str | None, directory: Path) -> tuple[Path, dict[str, str]]:
    """Unpack packages with what they depend on; no maintainer script is run.

    Args:
        suite: Release of the distribution.
        packages: Their names.
        mirror: Where they come from; mmdebstrap's own choice if ``None``.
        directory: Scratch directory that gets the tar file.

    Returns:
        The tar file, and the version of each package in it.

    Raises:
        MissingToolError: mmdebstrap is absent.
        ImageError: It failed; the message has its last lines.
        OSError: There was no room for what it writes.
    """
    tool = require("mmdebstrap", "mmdebstrap")
    archive, log = directory / f"{suite}.tar", directory / f"{suite}.log"
    command = [
        tool,
        "--variant=extract",
        "--architectures=amd64",
        # A snapshot or a mirror that stands still has an expired Release file. Its signature is checked all the same,
        # and a guest without a network has nothing to fear from a package that is old.
        '--aptopt=Acquire::Check-Valid-Until "false"',
        f"--include={','.join(packages)}",
        # The versions are in the names of what apt fetched: nothing is installed, so dpkg does not know them.
        f'--extract-hook=ls "$1"/var/cache/apt/archives | sed -n s/[.]deb$//p >"$1"/{_LISTING}',
        suite,
        str(archive),
        *([mirror] if mirror else []),
    ]
    # What it unpacks on the way goes where we clean up. Without root it works as other users, who cannot go there.
    environment = {**os.environ, "TMPDIR": str(directory)} if os.geteuid() == 0 else None
    with OwnedProcess(command, output=log, environment=environment) as process:
        try:
            status = process.wait(Deadline(_PATIENCE))
        except DeadlineExceededError as error:
            raise ImageError(f"mmdebstrap did not finish: {error.message}", hint="is the mirror reachable?") from error
    if status != 0:
        if os.strerror(errno.ENOSPC) in log.read_text(errors="replace"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise ImageError(
            f"mmdebstrap could not unpack {', '.join(packages)} of {suite} ({process.ending}):\n{process.tail(12)}",
            hint="is the mirror reachable, and does the suite have the packages? "
            "Without root, mmdebstrap needs user namespaces and the package uidmap",
        )
    with tarfile.open(archive) as tar:
        stream = tar.extractfile(f"./{_LISTING}")
        assert stream is not None
        names = stream.read().decode().split()
    # NAME_VERSION_ARCHITECTURE, with the colon of an epoch as %3a
    versions = {name.split("_")[0]: name.split("_")[1].replace("%3a", ":") for name in names if name.count("_") == 2}
    return archive, versions


def extract(archive: Path, directory: Path, place: Callable[[str], str | None]) -> None:
    """Extract files, directories and links from a tar file, as our own user; device nodes are left out.

    Args:
        archive: The tar file.
        directory: Where to.
        place: Given a member's name from the root, without a leading slash, returns the name to extract it under, or
            ``None`` to leave it out.
    """
    with tarfile.open(archive) as tar:
        # Links of a root file system may be absolute, meant from its own root: the safer filters refuse them. By an
        # attribute, which Python 3.11.2 (Debian 12) ignores where it does not know the argument.
        tar.extraction_filter = lambda member, _path: member
        for member in tar:
            name = place(member.name.removeprefix("./"))
            if name is None or not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                continue
            member.name = name
            if member.islnk():
                member.linkname = place(member.linkname.removeprefix("./")) or ""
            tar.extract(member, directory, set_attrs=False)
            if member.isreg():
                (directory / name).chmod(0o755 if member.mode & 0o100 else 0o644)


def merged_root(remove: Sequence[str]) -> Callable[[str], str | None]:
    """Return where members of a root file system go: below ``usr`` what belongs there today.

    Args:
        remove: Shell patterns, in terms of the result; what they match is left out with all below it.
    """

    def place(name: str) -> str | None:
        if name in ("", ".", _LISTING, *MERGED):
            return None
        merged = f"usr/{name}" if name.split("/", maxsplit=1)[0] in MERGED else name
        parents = ["/".join(merged.split("/")[:depth]) for depth in range(1, merged.count("/") + 2)]
        unwanted = any(fnmatch.fnmatchcase(parent, pattern) for parent in parents for pattern in remove)
        return None if unwanted else merged

    return place


def require(program: str, package: str) -> str:
    """Return the path of a program.

    Raises:
        MissingToolError: It is absent.
    """
    # Debian keeps kmod's programs where users without root do not look.
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        raise MissingToolError(
            f"{program} was not found; images cannot be built without it", hint=f"apt-get install {package}"
        )
    return path
