# SPDX-License-Identifier: Apache-2.0
"""kvtest and the Python packages that it is built on, as they are installed here: what runs on another host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from kvtest.resources import package_directory, recipes_directory, suites_directory

_OURS = "kvtest"
_NAME = re.compile(r"[A-Za-z0-9._-]+")
# What only the machine needs from which other hosts are reached.
_FOR_US_ALONE = {"paramiko"}


def plugins() -> list[metadata.Distribution]:
    """Return the distributions of pytest plugins that are built on kvtest, with fixtures for somebody's own tests."""
    found = {
        one.metadata["Name"]: one
        for one in metadata.distributions()
        if any((name := _NAME.match(text)) and name[0].lower() == _OURS for text in one.requires or [])
        and any(point.group == "pytest11" for point in one.entry_points)
    }
    return list(found.values())


def is_editable(distribution: metadata.Distribution) -> bool:
    """Return whether the code of a distribution is not where it is installed (PEP 660 and 610)."""
    said = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(said.get("dir_info", {}).get("editable"))


def distributions() -> list[metadata.Distribution]:
    """Return kvtest's distribution, those of plugins that are built on it, and those that these depend on.

    A plugin that is installed as editable stays here: nothing tells which files it has.
    """
    found: dict[str, metadata.Distribution] = {}
    waiting = [_OURS, *(one.metadata["Name"] for one in plugins() if not is_editable(one))]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found or name in _FOR_US_ALONE:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # needed elsewhere: on another system, by another Python
            continue
        for requirement in found[name].requires or []:
            words = _NAME.match(requirement)
            if words is not None and "extra ==" not in requirement:
                waiting.append(words[0])
    return list(found.values())


def files(packages: list[metadata.Distribution]) -> Iterator[tuple[Path, Path]]:
    """Yield the files of packages and of kvtest itself: where each is below ``site-packages``, and where it is here.

    Args:
        packages: What :func:`distributions` has returned.
    """
    for one in packages:
        editable = one.metadata["Name"] == _OURS
        for file in one.files or []:
            source = Path(str(one.locate_file(file)))
            wanted = ".." not in file.parts and (not editable or file.parts[0].endswith(".dist-info"))
            if wanted and "__pycache__" not in file.parts and source.is_file():
                yield Path(file), source
    for base, path in own_files():
        yield Path(_OURS) / ("" if base == package_directory() else base.name) / path.relative_to(base), path


def scripts() -> dict[str, str]:
    """Return the commands that kvtest brings: modules and functions by name."""
    points = metadata.distribution(_OURS).entry_points
    return {point.name: point.value for point in points if point.group == "console_scripts"}


def own_files() -> list[tuple[Path, Path]]:
    """Return the files of kvtest itself, each with the directory that it is of."""
    bases = (package_directory(), suites_directory(), recipes_directory())
    nested = {base for base in bases[1:] if base.is_relative_to(package_directory())}
    return [
        (base, path)
        for base in bases
        for path in sorted(base.rglob("*"))
        if path.is_file()
        and "__pycache__" not in path.parts
        and not (base == package_directory() and any(path.is_relative_to(other) for other in nested))
    ]
