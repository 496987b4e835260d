# SPDX-License-Identifier: Apache-2.0
"""Several workers: what belongs together stays together, and one that dies takes its guests along."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from kvtest.report import Outcome, Results, TestResult
from kvtest.report.directory import RESULTS_FILE
from kvtest.settings import Settings

SHARED = """
import os
import pytest

@pytest.mark.guest(scope="module")
@pytest.mark.parametrize("number", range(4))
def test_shared(guest, number, record_property):
    record_property("worker", os.environ["PYTEST_XDIST_WORKER"])
    record_property("machine", guest.run(["cat", "/etc/machine-id"]).text)

@pytest.mark.parametrize("number", range(4))
def test_own(guest, number, record_property):
    record_property("worker", os.environ["PYTEST_XDIST_WORKER"])
    record_property("machine", guest.run(["cat", "/etc/machine-id"]).text)
"""
CRASH = """
import os
import pathlib
import signal
from kvtest import requirement

@requirement("VSOCK-DATA-001")
def test_crash(guest):
    pathlib.Path("qemu").write_text(str(guest.vm.process.pid))
    os.kill(os.getpid(), signal.SIGKILL)

def test_before(guest):
    pass

def test_after(guest):
    pass
"""
UNRELATED = """
import pytest
@pytest.mark.parametrize("number", range(10))
def test_x(number):
    pass
"""


def run(pytester: pytest.Pytester, settings: Settings, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", f"--kvtest-cache={settings.cache}", "-n", "2", *arguments, timeout=300
    )


def properties(pytester: pytest.Pytester) -> dict[str, Mapping[str, str]]:
    return {test.id.partition("::")[2]: test.properties for test in results(pytester)}


def results(pytester: pytest.Pytester) -> Sequence[TestResult]:
    return Results.read(pytester.path / "kvtest-results" / RESULTS_FILE).tests


def test_tests_that_share_a_guest_run_on_one_worker(pytester: pytest.Pytester, settings: Settings) -> None:
    pytester.makepyfile(test_shared=SHARED)
    run(pytester, settings).assert_outcomes(passed=8)
    found = properties(pytester)
    shared = [found[f"test_shared[{number}]"] for number in range(4)]
    assert len({case["worker"] for case in shared}) == 1
    assert len({case["machine"] for case in shared}) == 1
    assert len({found[f"test_own[{number}]"]["machine"] for number in range(4)}) == 4
    assert len({case["worker"] for case in found.values()}) == 2


def test_a_worker_that_dies_is_reported_and_its_guest_dies_at_once(
    pytester: pytest.Pytester, settings: Settings
) -> None:
    pytester.makepyfile(test_crash=CRASH)
    result = run(pytester, settings)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*worker 'gw?' crashed while running 'test_crash.py::test_crash'*"])
    assert not os.path.exists(f"/proc/{Path('qemu').read_text()}")
    assert [test.id for test in results(pytester) if test.outcome is not Outcome.PASSED] == [
        "test_crash.py::test_crash"
    ]
    crashed = properties(pytester)["test_crash"]
    assert Path(crashed["artifacts"]).parent == pytester.path / "kvtest-results/artifacts"
    assert crashed["requirement"] == "VSOCK-DATA-001"


def test_a_run_without_tests_of_ours_is_scheduled_as_without_us(pytester: pytest.Pytester, settings: Settings) -> None:
    pytester.makepyfile(test_unrelated=UNRELATED)
    run(pytester, settings).assert_outcomes(passed=10)
    assert not (pytester.path / "kvtest-results").exists()
