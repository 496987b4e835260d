# SPDX-License-Identifier: Apache-2.0
"""Paths that go when their owner goes, however it goes."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from kvtest.ownership.keeper import remove
from kvtest.ownership.owner import current_keeper


@contextlib.contextmanager
def owned_path(parent: Path, prefix: str) -> Iterator[Path]:
    """Choose a name that is not in use; whatever has that name at the end, or when we die, is removed.

    Args:
        parent: The directory.
        prefix: How the name begins.
    """
    path = parent / f"{prefix}{secrets.token_hex(6)}"
    keeper = current_keeper()
    keeper.remove(path)  # before it is made: there is no moment in which nobody would remove it
    try:
        yield path
    finally:
        remove(str(path))
        keeper.keep(path)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that whoever reads it sees all of it, or what was there before."""
    with owned_path(path.parent, f".{path.name}-") as new:
        new.write_text(text, encoding="utf-8")
        new.replace(path)


@contextlib.contextmanager
def temporary_directory(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a directory of mode 0700 that is removed at the end, or when we die; see :func:`owned_path`."""
    with owned_path(parent, prefix) as path:
        path.mkdir(mode=0o700)
        yield path
