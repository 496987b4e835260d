# SPDX-License-Identifier: Apache-2.0
"""Exit statuses, and which one a run has.

A run can have several things to tell at once. What is certain comes first: a binding requirement that is violated is
so whatever else went wrong, so its status is 1 even where the run was stopped or another test met an error. Then come
errors, because a run with them has not found out all that it was to find out: 3 if any of them is ours, 2 if all are
the environment's or the run is incomplete. Only a run that did all that it was to do is conformant, also where
requirements are violated that are not binding: they are reported, and do not count.
"""

from __future__ import annotations

from enum import IntEnum

import pytest

from kvtest.errors import GuestError, HostError, ImageError, KvtestError, RuntimeFailedError, UsageError, VMError
from kvtest.report import Outcome, Results, TestResult, failures

STATUSES = (
    "Exit status: 0 conformant (a violated SHOULD or MAY is reported and does not count); 1 a MUST or MUST NOT is "
    "violated, or a test failed that names no requirement or left something on the host; 2 wrong usage, unfit "
    "environment, or incomplete; 3 internal error. Where several are true: 1, then 3, then 2."
)


class Status(IntEnum):
    """Exit statuses."""

    CONFORMANT = 0
    VIOLATED = 1
    USAGE = 2
    INTERNAL = 3


def status_of(error: KvtestError) -> Status:
    """Return the exit status for an error that ends a command."""
    expected = (UsageError, HostError, ImageError, VMError, GuestError, RuntimeFailedError)
    return Status.USAGE if isinstance(error, expected) else Status.INTERNAL


def status_of_results(results: Results) -> Status:
    """Return the exit status that the results of a run ask for.

    Args:
        results: The run; one that was killed has those of the tests that were over.
    """
    if failures(results):
        return Status.VIOLATED
    errors = [test for test in results.tests if test.outcome is Outcome.ERROR]
    if not all(map(_is_unfit, errors)):
        return Status.INTERNAL
    return Status.USAGE if errors or not results.complete else Status.CONFORMANT


def status_of_run(status: int, results: Results | None) -> Status:
    """Return kvtest's exit status for a run of pytest.

    Args:
        status: pytest's own.
        results: What the plugin has recorded.
    """
    if status == pytest.ExitCode.INTERNAL_ERROR:  # what was recorded up to there is not to be relied on
        return Status.INTERNAL
    recorded = None if results is None or not results.tests else status_of_results(results)
    if recorded is Status.VIOLATED:
        return recorded
    if status in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.INTERRUPTED):
        return Status.USAGE
    if recorded is None:  # without results nothing is known
        return Status.INTERNAL
    if status == pytest.ExitCode.TESTS_FAILED and results is not None and not _explains(results):
        return Status.INTERNAL  # pytest has seen a failure that we have not
    return recorded


def _explains(results: Results) -> bool:
    """Whether the results hold something for which pytest calls a run failed."""
    return any(test.outcome in (Outcome.FAILED, Outcome.ERROR) for test in results.tests)


def _family(base: type[KvtestError]) -> list[type[KvtestError]]:
    return [base, *(kind for direct in base.__subclasses__() for kind in _family(direct))]


# Errors that are the user's or the machine's and not ours, by name, because results come from other processes.
_UNFIT = {
    kind.__name__ for base in (UsageError, HostError, ImageError, VMError, RuntimeFailedError) for kind in _family(base)
} | {KeyboardInterrupt.__name__}


def _is_unfit(test: TestResult) -> bool:
    """Whether an error is the machine's or the test's, and not kvtest's."""
    return test.properties.get("error") in _UNFIT or "fault_of" in test.properties
