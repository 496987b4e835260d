# SPDX-License-Identifier: Apache-2.0
"""Shared memory: files that are named with a word of ours, and System V segments that a process of ours has made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from kvtest.census.marks import Marks
from kvtest.census.thing import Kind, Thing

_FILES = "/dev/shm"  # shm_overview(7)
_SEGMENTS = "/proc/sysvipc/shm"  # proc(5)


def shared_memory(marks: Marks, makers: set[int]) -> Iterator[Thing]:
    """Yield the shared memory that is ours.

    Args:
        marks: What tells files.
        makers: Processes of ours; segments outlive those who have made them.
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(_FILES):
            if marks.own(entry.path):
                yield Thing(Kind.SHARED_MEMORY, (entry.path, entry.inode()), entry.path)
    with contextlib.suppress(OSError), open(_SEGMENTS, encoding="ascii") as stream:
        columns = next(stream).split()
        for line in stream:
            row = dict(zip(columns, line.split(), strict=False))
            if int(row["cpid"]) in makers:
                text = f"System V segment {row['shmid']} of {row['size']} bytes, made by process {row['cpid']}"
                yield Thing(Kind.SHARED_MEMORY, (int(row["shmid"]), int(row["ctime"])), text)
