# SPDX-License-Identifier: Apache-2.0
"""What another machine needs of this one to run suites: kvtest with its packages, images of guests, and templates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen

from kvtest.cache import digest, fingerprint
from kvtest.host import installed
from kvtest.host.frames import PIECE
from kvtest.image import Image
from kvtest.vm.freeze import extents
from kvtest.vm.template import Template
from kvtest.vm.template_cache import CARRIED

_MANIFEST = "manifest.json"
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_")
_OLD_MANYLINUX = {"manylinux2014": (2, 17), "manylinux2010": (2, 12), "manylinux1": (2, 5)}


@frozen
class File:
    """A file to be carried.

    Args:
        source: Where it is here.
        digest: Its SHA-256.
        size: Its size.
        executable: Whether it is a program.
    """

    source: Path
    digest: str
    size: int
    executable: bool = False

    @property
    def data(self) -> int:
        """Bytes that are not in holes."""
        return sum(size for _, size in extents(self.source))

    def pieces(self) -> Iterator[tuple[int, bytes, bool]]:
        """Yield offsets, what is there, and whether it is the last; without holes, but one piece at least."""
        places = [
            (offset, min(PIECE, start + size - offset))
            for start, size in extents(self.source)
            for offset in range(start, start + size, PIECE)
        ] or [(0, 0)]
        with self.source.open("rb") as stream:
            for number, (offset, size) in enumerate(places, start=1):
                stream.seek(offset)
                yield offset, stream.read(size), number == len(places)


@frozen
class Tree:
    """A directory to be carried.

    Args:
        place: Where it belongs, below the directory of the other machine that keeps it; changes with its contents.
        files: Its files by relative path.
    """

    place: str
    files: Mapping[str, File]


def site() -> Tree:
    """Return kvtest and the packages that it is built on."""
    found = {str(name): file_of(path) for name, path in installed.files(installed.distributions())}
    return Tree(f"sites/{fingerprint({name: file.digest for name, file in found.items()})}", found)


def of_image(image: Image) -> Tree:
    """Return the image of a guest."""
    return _entry(f"cache/images/{image.name}", image.kernel.parent, image.manifest["files"])


def of_template(template: Template, portable: str) -> Tree:
    """Return the template of a guest.

    Args:
        template: The template.
        portable: Its name where it goes.
    """
    files = json.loads((template.directory / _MANIFEST).read_bytes())["files"]
    return _entry(f"cache/{CARRIED}/{portable}", template.directory, files)


def needed_libc() -> tuple[int, int]:
    """Return the oldest glibc that all packages here run with, as their wheels say (PEP 600)."""
    needed = (0, 0)
    for one in installed.distributions():
        tags = [line for line in (one.read_text("WHEEL") or "").splitlines() if line.startswith("Tag:")]
        found = [version for tag in tags for version in _versions(tag)]
        needed = max(needed, min(found, default=(0, 0)))
    return needed


def _versions(tag: str) -> Iterator[tuple[int, int]]:
    for major, minor in _MANYLINUX.findall(tag):
        yield int(major), int(minor)
    for name, version in _OLD_MANYLINUX.items():
        if f"{name}_" in tag:
            yield version


def _entry(place: str, directory: Path, files: Mapping[str, Mapping[str, object]]) -> Tree:
    """Return an entry of the cache, whose manifest has digests already."""
    known = {name: File(directory / name, str(said["sha256"]), int(str(said["size"]))) for name, said in files.items()}
    return Tree(place, {**known, _MANIFEST: file_of(directory / _MANIFEST)})


def file_of(path: Path) -> File:
    """Return a file, its contents read."""
    status = path.stat()
    return File(path, digest(path), status.st_size, bool(status.st_mode & 0o100))
