# SPDX-License-Identifier: Apache-2.0
"""Which exit status a run has, also where it has several things to tell."""

from __future__ import annotations

import pytest

from kvtest.cli.status import Status, status_of_results, status_of_run
from kvtest.report import Outcome, Results
from tests.unit.report.promises import MAY, MUST, MUST_NOT, SHOULD, error, failed, passed, requirement, result, run

OURS = error(MUST, error="InternalError")
THEIRS = error(MUST, error="BootError")
FIXTURE = error(MUST, error="RuntimeError", fault_of="the test")
LEAK = {"error": "LeakError", "leak": "left behind"}


@pytest.mark.parametrize(
    ("results", "status"),
    [
        (run(passed(MUST)), 0),
        (run(passed()), 0),
        (run(failed(MUST)), 1),
        (run(failed(MUST_NOT)), 1),
        (run(failed()), 1),
        (run(failed(SHOULD)), 0),
        (run(failed(MAY)), 0),
        (run(failed(SHOULD, MUST)), 1),
        (run(failed(requirement("X-UNKNOWN-001"))), 1),
        (run(failed(MUST, **LEAK)), 1),
        (run(failed(SHOULD, **LEAK)), 1),
        (run(failed(SHOULD, error="AssertionError", leak="left behind")), 1),
        (run(result(Outcome.SKIPPED, MUST)), 0),
        (run(result(Outcome.SKIPPED, MUST, xfail="known")), 1),
        (run(result(Outcome.SKIPPED, SHOULD, xfail="known")), 0),
        (run(result(Outcome.SKIPPED, xfail="known")), 0),
        (run(THEIRS), 2),
        (run(FIXTURE), 2),
        (run(OURS), 3),
        (run(error(MUST)), 3),
        # Mixes.
        (run(error(MUST, error="BootError", leak="left behind")), 1),
        (run(THEIRS, OURS), 3),
        (run(failed(MUST), OURS), 1),
        (run(failed(MUST), THEIRS), 1),
        (run(failed(SHOULD), THEIRS), 2),
        (run(failed(SHOULD), OURS), 3),
        (run(passed(MUST), complete=False), 2),
        (run(failed(SHOULD), complete=False), 2),
        (run(failed(MUST), complete=False), 1),
        (run(OURS, complete=False), 3),
        (run(error(MUST, error="KeyboardInterrupt"), complete=False), 2),
    ],
)
def test_of_results(results: Results, status: int) -> None:
    assert status_of_results(results) == status


@pytest.mark.parametrize(
    ("code", "results", "status"),
    [
        (pytest.ExitCode.OK, run(passed(MUST)), 0),
        (pytest.ExitCode.OK, run(result(Outcome.SKIPPED, MUST, xfail="known")), 1),
        (pytest.ExitCode.OK, run(), 3),
        (pytest.ExitCode.OK, None, 3),
        (pytest.ExitCode.TESTS_FAILED, run(failed(SHOULD)), 0),
        (pytest.ExitCode.TESTS_FAILED, run(failed(MUST)), 1),
        (pytest.ExitCode.TESTS_FAILED, run(THEIRS), 2),
        (pytest.ExitCode.TESTS_FAILED, run(passed(MUST)), 3),
        (pytest.ExitCode.INTERRUPTED, run(passed(MUST)), 2),
        (pytest.ExitCode.INTERRUPTED, run(failed(MUST), complete=False), 1),
        (pytest.ExitCode.INTERRUPTED, None, 2),
        (pytest.ExitCode.USAGE_ERROR, None, 2),
        (pytest.ExitCode.NO_TESTS_COLLECTED, None, 2),
        (pytest.ExitCode.INTERNAL_ERROR, run(failed(MUST)), 3),
    ],
)
def test_of_a_run_of_pytest(code: pytest.ExitCode, results: Results | None, status: int) -> None:
    assert status_of_run(int(code), results) == status


def test_statuses_have_their_numbers() -> None:
    assert list(Status) == [0, 1, 2, 3]
