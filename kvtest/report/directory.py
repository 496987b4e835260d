# SPDX-License-Identifier: Apache-2.0
"""The directory that a run leaves its results in: one run at a time, and nothing in it is lost that is not ours."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kvtest.errors import KvtestError, SettingError
from kvtest.report.results import Results

JUNIT_FILE = "junit.xml"
RESULTS_FILE = "results.jsonl"
_OURS = ("artifacts", "guests", "host", JUNIT_FILE, RESULTS_FILE)
_MARKER = ".kvtest"
_PREVIOUS = "previous"


@contextlib.contextmanager
def results_of_one_run(directory: Path) -> Iterator[None]:
    """Hold a results directory for a run; what an earlier run left in it is moved to ``previous``.

    Args:
        directory: The directory; made if need be.

    Raises:
        SettingError: It cannot be used: no directory, not writable, in use by another run, or full of things that
            are not a run's.
    """
    marker = directory / _MARKER
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not marker.exists() and not _has_results(directory):
            for name in (*_OURS, _PREVIOUS):
                if os.path.lexists(directory / name):
                    raise SettingError(
                        f"{directory} has {name!r}, which no run of kvtest has put there",
                        hint="choose another results directory with --results",
                    )
        descriptor = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingError(
                f"another run is writing its results to {directory}", hint="choose another with --results"
            ) from error
        try:
            _set_aside(directory)
        except OSError as error:
            raise _unusable(directory, error) from error
        yield
    finally:
        os.close(descriptor)


def _has_results(directory: Path) -> bool:
    """Whether pytest has put results of ours there, without us."""
    try:
        Results.read(directory / RESULTS_FILE)
    except (OSError, ValueError, KvtestError):
        return False
    return True


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
