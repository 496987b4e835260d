# SPDX-License-Identifier: Apache-2.0
"""Processes that descend from this one, zombies too, or from one that did.

Those that fork away from what the keeper has started stay its children; those that fork away from a child of this
process itself are known by their environment.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from kvtest.census.heirs import HEIRS
from kvtest.census.interpreter import helpers
from kvtest.census.thing import Kind, Thing

_LONGEST_COMMAND = 160


def processes() -> Iterator[Thing]:
    """Yield the descendants of this process and of its heirs (proc(5), /proc/PID/task/TID/children)."""
    own_namespace = _mount_namespace(os.getpid())
    left_out = {os.getpid()} | helpers().pids
    for pid in _descendants([os.getpid(), *HEIRS.find()]):
        if pid not in left_out:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                yield _process(pid, own_namespace)


def _descendants(roots: list[int]) -> set[int]:
    """Return processes and their descendants."""
    found: set[int] = set()
    waiting = roots
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += _children(pid)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", "rb") as stream:
                found += map(int, stream.read().split())
    return found


def _process(pid: int, own_namespace: int) -> Thing:
    with open(f"/proc/{pid}/stat", "rb") as stream:
        name, _, rest = stream.read().partition(b"(")[2].rpartition(b") ")
    fields = rest.split()  # from the third on: state, parent, …
    state, start = fields[0].decode(), int(fields[19])
    with open(f"/proc/{pid}/cmdline", "rb") as stream:
        command = stream.read(_LONGEST_COMMAND).replace(b"\0", b" ").decode(errors="replace").strip()
    described = command or f"[{name.decode(errors='replace')}]"
    remark = " (a zombie)" if state == "Z" else ""
    namespace = _mount_namespace(pid)
    return Thing(
        Kind.PROCESS,
        (pid, start),
        f"{pid}{remark}: {described}",
        pid,
        0 if namespace == own_namespace else namespace,
    )


def _mount_namespace(pid: int) -> int:
    """Return the inode of a process's mount namespace; 0 of a zombie, which has none any more."""
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino
    except OSError:
        return 0
