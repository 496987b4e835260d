# SPDX-License-Identifier: Apache-2.0
"""What the kernel keeps under names in its own file systems: cgroups, namespaces and devices of the network, loops."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from kvtest.census.marks import Marks
from kvtest.census.thing import Kind, Thing

_CGROUPS = "/sys/fs/cgroup"
_NAMESPACES = "/run/netns"  # where ip-netns(8) keeps their names
_DEVICES = "/sys/class/net"
_BLOCK_DEVICES = "/sys/block"


def cgroups(marks: Marks) -> Iterator[Thing]:
    """Yield the cgroups that are named with a word of ours, of every hierarchy (cgroups(7))."""
    if not marks.words:
        return
    for directory, names, _ in os.walk(_CGROUPS):
        for name in names:
            if marks.own(name):
                path = f"{directory}/{name}"
                with contextlib.suppress(OSError):  # gone meanwhile
                    yield Thing(Kind.CGROUP, (path, os.stat(path).st_ino), path)


def network_namespaces(marks: Marks) -> Iterator[Thing]:
    """Yield the network namespaces that have a name with a word of ours in it."""
    yield from (
        Thing(Kind.NETWORK_NAMESPACE, (entry.name, entry.inode()), f"{_NAMESPACES}/{entry.name}")
        for entry in _entries(_NAMESPACES, marks)
    )


def network_devices(marks: Marks) -> Iterator[Thing]:
    """Yield the network devices of our namespace that have a word of ours in their name."""
    yield from (Thing(Kind.NETWORK_DEVICE, (entry.name,), entry.name) for entry in _entries(_DEVICES, marks))


def loop_devices(marks: Marks) -> Iterator[Thing]:
    """Yield the loop devices whose file is ours (loop(4))."""
    if not marks.words and not marks.places:
        return
    with contextlib.suppress(OSError):
        for name in os.listdir(_BLOCK_DEVICES):
            if name.startswith("loop"):
                with contextlib.suppress(OSError), open(f"{_BLOCK_DEVICES}/{name}/loop/backing_file") as stream:
                    file = stream.read().strip()
                    if marks.own(file):
                        yield Thing(Kind.LOOP_DEVICE, (name, file), f"/dev/{name} of {file}")


def _entries(directory: str, marks: Marks) -> Iterator[os.DirEntry[str]]:
    if marks.words:
        with contextlib.suppress(OSError):
            yield from (entry for entry in os.scandir(directory) if marks.own(entry.name))
