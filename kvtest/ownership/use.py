# SPDX-License-Identifier: Apache-2.0
"""Entries in use: who uses one holds a shared lock on its directory, and who removes one needs it alone (flock(2))."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def in_use(entry: Path) -> Iterator[None]:
    """Keep an entry from being removed by anybody.

    Args:
        entry: Its directory.

    Raises:
        FileNotFoundError: It was removed before.
    """
    descriptor = os.open(entry, _FLAGS)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not os.path.samestat(os.fstat(descriptor), os.stat(entry)):  # removed between the two, and made again
            raise FileNotFoundError(f"{entry} was removed")
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone(entry: Path) -> Iterator[bool]:
    """Keep others from beginning to use an entry.

    Args:
        entry: Its directory.

    Yields:
        Whether nobody uses it.
    """
    descriptor = os.open(entry, _FLAGS)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
