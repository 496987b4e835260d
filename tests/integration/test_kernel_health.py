# SPDX-License-Identifier: Apache-2.0
"""Tests during which the host's kernel complains, by what it wrote in a lab host that died."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvtest.host.kernel_log import WATCHED
from kvtest.report import Outcome, Results

SUITE = """
import pytest
from pathlib import Path

def complain(text):
    with Path({log!r}).open("a") as stream:
        stream.write(f"1,2,3,-;{{text}}\\n")

@pytest.fixture
def complaining_afterwards():
    yield
    complain("BUG: afterwards")

def test_alone(artifacts): pass

@pytest.mark.requirement("VSOCK-CID-001")
def test_during(artifacts): complain("Oops: int3: 0000 [#1] PREEMPT SMP NOPTI")

def test_after_it(artifacts): pass

def test_both(artifacts):
    complain("WARNING: CPU: 0 PID: 61 at net/x.c:44")
    assert "this" == "that"

def test_then(artifacts, complaining_afterwards): pass

def test_at_last(artifacts): pass
"""


def test_a_complaint_fails_the_test_during_which_it_came(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "kmsg"
    log.touch()
    monkeypatch.setenv(WATCHED, str(log))
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(test_mine=SUITE.format(log=str(log)))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    tests = Results.read(pytester.path / "kvtest-results/results.jsonl").tests
    assert {test.id.partition("::")[2]: test.outcome for test in tests} == {
        "test_alone": Outcome.PASSED,
        "test_during": Outcome.FAILED,
        "test_after_it": Outcome.PASSED,
        "test_both": Outcome.FAILED,
        "test_then": Outcome.FAILED,
        "test_at_last": Outcome.PASSED,
    }
    messages = {test.id.partition("::")[2]: test.message + test.details for test in tests}
    assert "the host's kernel complained: Oops: int3: 0000" in messages["test_during"]
    assert "assert 'this' == 'that'" in messages["test_both"]
    assert "the host's kernel complained: WARNING: CPU: 0" in messages["test_both"]
    assert "the host's kernel complained: BUG: afterwards" in messages["test_then"]
    result.stdout.fnmatch_lines(["violated: VSOCK-CID-001 (MUST*"])
