# SPDX-License-Identifier: Apache-2.0
"""Files and directories outside of ours that somebody has made for us, such as the state of a container."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator

from kvtest.census.marks import Marks
from kvtest.census.thing import Kind, Thing


def paths(marks: Marks) -> Iterator[Thing]:
    """Yield what exists of the paths that are ours; of a directory itself, not what is in it."""
    for pattern in sorted(marks.paths):
        for path in glob.glob(pattern):
            with contextlib.suppress(OSError):  # gone meanwhile
                yield Thing(Kind.PATH, (path, os.lstat(path).st_ino), path)
