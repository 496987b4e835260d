# SPDX-License-Identifier: Apache-2.0
"""Taking away what is mounted for a container."""

from __future__ import annotations

import os
from pathlib import Path

from kvtest.guest import libc


def unmount(directory: Path) -> None:
    """Take away everything that is mounted at a directory; nothing need be."""
    while os.path.ismount(directory):
        libc.unmount(str(directory))
