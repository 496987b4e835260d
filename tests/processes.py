# SPDX-License-Identifier: Apache-2.0
"""Which processes belong to whom, for tests that kill some of them."""

from __future__ import annotations

import contextlib
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
