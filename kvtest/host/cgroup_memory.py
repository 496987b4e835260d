# SPDX-License-Identifier: Apache-2.0
"""How much memory the limits of our cgroups leave (``cgroup-v2.rst`` and ``cgroup-v1/memory.rst`` of Linux).

The limit of any ancestor counts as well. What a cgroup has of files in memory is no longer had as soon as somebody
wants the memory, as in the machine's ``MemAvailable``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from attrs import frozen


@frozen
class _Version:
    """The files of a version of cgroups.

    Args:
        limit: Has the limit in bytes.
        usage: Has the bytes in use.
        files: Fields of ``memory.stat``: bytes of files in memory, those of descendants included.
    """

    limit: str
    usage: str
    files: tuple[str, ...]


_V1 = _Version("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))
_V2 = _Version("memory.max", "memory.current", ("active_file", "inactive_file"))


def rooms(root: Path) -> Iterator[int]:
    """Yield how many bytes each limit leaves that we are under; nothing where there is none.

    Args:
        root: What ``proc`` and the mount points of cgroups are below.
    """
    for directory, version in _directories(root):
        with contextlib.suppress(OSError, ValueError):  # the root has no such files; and "max" is no limit
            limit, usage = (int((directory / name).read_text()) for name in (version.limit, version.usage))
            yield max(0, limit - usage + _of_files(directory, version))


def _of_files(directory: Path, version: _Version) -> int:
    with contextlib.suppress(OSError):
        fields = dict(line.split(" ", 1) for line in (directory / "memory.stat").read_text().splitlines())
        return sum(int(fields.get(name, 0)) for name in version.files)
    return 0


def _directories(root: Path) -> Iterator[tuple[Path, _Version]]:
    """Yield the cgroups that we are in and that may limit memory, from the inmost to the root of what is mounted."""
    try:
        ours = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
        mounts = (root / "proc/self/mountinfo").read_text(errors="replace").splitlines()
    except FileNotFoundError:  # a kernel without them
        return
    paths = {_V2 if number == "0" else _V1: path for number, names, path in ours if _has_memory(number, names)}
    for line in mounts:
        mount, _, file_system = line.partition(" - ")
        kind, _, options = file_system.split(" ", 2)
        version = {"cgroup": _V1, "cgroup2": _V2}.get(kind)
        if version not in paths or (version is _V1 and "memory" not in options.split(",")):
            continue
        mounted, place = mount.split(" ")[3:5]
        top = root / place.lstrip("/")
        path = PurePosixPath(paths[version])
        # Of a container whose cgroup is the root of what is mounted, the path may be one on the host.
        below = (
            path.relative_to(mounted) if path.is_relative_to(mounted) and ".." not in path.parts else PurePosixPath()
        )
        for relative in (below, *below.parents):
            yield top / relative, version


def _has_memory(number: str, controllers: str) -> bool:
    return number == "0" or "memory" in controllers.split(",")
