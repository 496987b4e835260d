# SPDX-License-Identifier: Apache-2.0
"""The directory that a run leaves its results in: one run at a time, and nothing in it is lost that is not ours."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kvtest.errors import SettingError

JUNIT_FILE = "junit.xml"
RESULTS_FILE = "results.jsonl"
MISSING_FILE = "missing.txt"  # what did not come of a run on another host
HOSTS = "hosts"  # with a directory for each host of a run on several
_OURS = ("artifacts", "guests", "host", HOSTS, JUNIT_FILE, RESULTS_FILE, MISSING_FILE)
_MARKER = ".kvtest"
_PREVIOUS = "previous"
_HELD: dict[Path, int] = {}  # the descriptors with the locks


def claim(directory: Path) -> None:
    """Mark a directory as one of results; made if need be.

    Args:
        directory: The directory.

    Raises:
        SettingError: It cannot be used: no directory, not writable, or full of things that are not a run's.
    """
    os.close(_marker(directory))


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keep other runs out of a results directory; nothing happens where this process does so already.

    Args:
        directory: The directory.

    Raises:
        SettingError: It cannot be used, as for :func:`claim`, or another run is using it.
    """
    path = directory.absolute()
    if path in _HELD:
        yield
        return
    descriptor = _marker(directory)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingError(
                f"another run is writing its results to {directory}", hint="choose another with --results"
            ) from error
        _HELD[path] = descriptor
        yield
    finally:
        _HELD.pop(path, None)
        os.close(descriptor)


@contextlib.contextmanager
def results_of_one_run(directory: Path) -> Iterator[None]:
    """Hold a results directory for a run; what an earlier run left in it is moved to ``previous``.

    Args:
        directory: The directory.

    Raises:
        SettingError: As for :func:`held`.
    """
    with held(directory):
        try:
            _set_aside(directory)
        except OSError as error:
            raise _unusable(directory, error) from error
        yield


def _let_go() -> None:
    """In a child that a test forks: whatever becomes of it, the lock is not its own (flock(2) is inherited)."""
    for descriptor in _HELD.values():
        os.close(descriptor)
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)


def _marker(directory: Path) -> int:
    """Return a descriptor of the file that marks a directory as ours."""
    marker = directory / _MARKER
    try:
        directory.mkdir(parents=True, exist_ok=True)
        there = [name for name in (*_OURS, _PREVIOUS) if os.path.lexists(directory / name)]
        if there and not marker.exists():  # in this order: another worker may be making them
            raise SettingError(
                f"{directory} has {there[0]!r}, which no run of kvtest has put there",
                hint="choose another results directory with --results",
            )
        return os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unusable(directory, error) from error


def _set_aside(directory: Path) -> None:
    previous = directory / _PREVIOUS
    left = [directory / name for name in _OURS if os.path.lexists(directory / name)]
    if left:
        if previous.is_symlink():
            previous.unlink()
        elif previous.exists():
            shutil.rmtree(previous)
        previous.mkdir()
    for path in left:
        path.rename(previous / path.name)


def _unusable(directory: Path, error: OSError) -> SettingError:
    if directory.exists() and not directory.is_dir():
        return SettingError(f"the results directory {directory} is a file", hint="choose another with --results")
    return SettingError(
        f"could not use the results directory {directory}: {error.strerror}", hint="choose another with --results"
    )
