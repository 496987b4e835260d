# SPDX-License-Identifier: Apache-2.0
"""Which processes belong to whom, for tests that kill some of them, and what they wait for."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
from pathlib import Path

from kvtest.deadline import Deadline


def children_of(pid: int) -> list[int]:
    """Return the children of a process, of whichever of its threads."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, file.read_text().split())
    return found


def wait_for_end(pidfds: list[int], deadline: Deadline) -> bool:
    """Wait until processes have ended; return whether they did."""
    for pidfd in pidfds:
        if not select.select([pidfd], [], [], deadline.remaining)[0]:
            return False
        os.close(pidfd)
    return True


def wait_for_file(path: Path, deadline: Deadline) -> bool:
    """Wait until a file is there, in a directory that is there already; return whether it is (inotify(7))."""
    libc = ctypes.CDLL(None, use_errno=True)
    created_or_moved_here = 0x100 | 0x80
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    try:
        libc.inotify_add_watch(descriptor, os.fsencode(path.parent), created_or_moved_here)
        while not path.exists():
            if not select.select([descriptor], [], [], deadline.remaining)[0]:
                return False
            os.read(descriptor, 1 << 16)
        return True
    finally:
        os.close(descriptor)


def with_variable(name: str, value: str) -> list[int]:
    """Return the processes that have a variable in their environment, as their descendants do (proc(5))."""
    wanted = f"{name}={value}".encode()
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if wanted in (directory / "environ").read_bytes().split(b"\0"):
                    found.append(int(directory.name))
    return found
