# SPDX-License-Identifier: Apache-2.0
"""What a process has of what may not add up: descriptors, threads, and memory that is its own."""

from __future__ import annotations

import os
from pathlib import Path

from attrs import frozen


@frozen
class Footprint:
    """What a process has.

    Args:
        descriptors: Number of its open files.
        memory: Bytes of resident memory that are backed by no file.
        threads: Number of its threads.
    """

    descriptors: int
    memory: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Footprint:
        """Return what a process has now.

        Args:
            pid: Its ID.

        Raises:
            OSError: There is none, or it is somebody else's.
        """
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
        (kilobytes,) = (int(line.split()[1]) for line in status if line.startswith("RssAnon:"))  # proc(5)
        return cls(len(os.listdir(f"/proc/{pid}/fd")), kilobytes * 1024, len(os.listdir(f"/proc/{pid}/task")))
