# SPDX-License-Identifier: Apache-2.0
"""The lines at the end of a run."""

from __future__ import annotations

from attrs import evolve

from kvtest.conformance import Level, Plan, PlannedTest
from kvtest.report import Outcome, Results, RunInfo, TestResult, summary_lines
from tests.unit.report.promises import requirement

RUN = RunInfo(start=10.0, hostname="h")


def result(name: str, outcome: Outcome, message: str = "", **properties: str) -> TestResult:
    return TestResult(id=name, outcome=outcome, start=10.0, duration=1.0, message=message, properties=properties)


def test_everything_passed() -> None:
    tests = tuple(result(f"a::{number}", Outcome.PASSED) for number in range(3))
    assert summary_lines(Results(RUN, tests, 22.34)) == ["3 passed in 12.3 s"]


def test_what_bears_on_every_verdict_is_told() -> None:
    run = evolve(RUN, properties={"deadlines": "each came 4 times later", "cloned_again": "silent", "memory": "256"})
    tests = (result("a::p", Outcome.PASSED),)
    told = ["deadlines: each came 4 times later", "cloned again: silent"]
    assert summary_lines(Results(run, tests, 22.34)) == [*told, "1 passed in 12.3 s"]


def test_failures_come_with_their_cause_and_requirement() -> None:
    tests = (
        result("a::p", Outcome.PASSED, requirement="VSOCK-DATA-001"),
        result("a::f", Outcome.FAILED, "\x1b[31mred\nmore", requirement="VSOCK-CLOSE-001", artifacts="/r/f"),
        result("a::g", Outcome.FAILED, requirement="VSOCK-CLOSE-001, VSOCK-DATA-001"),
        result("a::h", Outcome.FAILED, requirement="SERIAL-OPEN-001"),
        result("a::i", Outcome.FAILED, requirement=""),
        result("a::e", Outcome.ERROR, "no boot", requirement="VSOCK-PORT-001"),
        result("a::d", Outcome.ERROR),
        result("a::s", Outcome.SKIPPED, requirement="VSOCK-CID-001"),
        result("a::l", Outcome.FAILED, "left behind", requirement="VSOCK-LOST-001", error="LeakError", leak="x"),
        result("a::m", Outcome.PASSED, requirement="VSOCK-LOST-002"),
        result("a::b", Outcome.ERROR, "no boot", error="BootError", leak="left behind: process 1"),
    )
    names = ("CID", "CLOSE", "DATA", "PORT")
    plan = Plan(
        requirements=(
            *(requirement(f"VSOCK-{name}-001") for name in names),
            requirement("SERIAL-OPEN-001", Level.SHOULD),
            requirement("VSOCK-LOST-001"),
            requirement("VSOCK-LOST-002"),
        ),
        tests=(PlannedTest("a::o", ("VSOCK-LOST-002",), left_out="-k 'p'"),),
    )
    assert summary_lines(Results(evolve(RUN, plan=plan), tests, None)) == [
        "FAILED a::f",
        "    red",
        "    artifacts: /r/f",
        "FAILED a::g",
        "FAILED a::h",
        "FAILED a::i",
        "ERROR a::e",
        "    no boot",
        "ERROR a::d",
        "FAILED a::l",
        "    left behind",
        "ERROR a::b",
        "    no boot",
        "    leak: left behind: process 1",
        "violated: VSOCK-CLOSE-001 (MUST, 2 tests)",
        "violated: VSOCK-DATA-001 (MUST, 1 test)",
        "violated: SERIAL-OPEN-001 (SHOULD, 1 test)",
        "requirements: 1 met, 3 violated, 1 not applicable, 2 not tested",
        "2 passed, 5 failed, 3 errors, 1 skipped in 1.0 s; the run was interrupted",
    ]


def test_requirements_are_not_mentioned_where_no_test_names_one() -> None:
    run = evolve(RUN, plan=Plan((requirement("VSOCK-CID-001"),)))
    assert summary_lines(Results(run, (result("a::p", Outcome.PASSED),), 22.34)) == ["1 passed in 12.3 s"]


def test_no_tests_at_all() -> None:
    assert summary_lines(Results(RUN, (), 10.0)) == ["no tests ran in 0.0 s"]
