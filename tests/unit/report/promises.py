# SPDX-License-Identifier: Apache-2.0
"""Runs of a small catalogue, for tests of what is made of them."""

from __future__ import annotations

from kvtest.conformance import Document, Level, Plan, PlannedTest, Requirement, Ring, Source
from kvtest.report import Outcome, Results, RunInfo, TestResult

SOURCE = Source(Document("A | specification", "https://spec.example"), "4.2")


def requirement(name: str, level: Level = Level.MUST) -> Requirement:
    return Requirement(name, level, "It *holds*.", (SOURCE,), (Ring.TRANSPORT,), ())


MUST = requirement("X-MUST-001")
MUST_NOT = requirement("X-NOT-001", Level.MUST_NOT)
SHOULD = requirement("X-SHOULD-001", Level.SHOULD)
MAY = requirement("X-MAY-001", Level.MAY)
PLAN = Plan((MUST, MUST_NOT, SHOULD, MAY), (PlannedTest("t::left", (MAY.id,), left_out="-k 'x'"),))


def result(outcome: Outcome, *requirements: Requirement, name: str = "t::one", **properties: str) -> TestResult:
    named = {"requirement": ", ".join(one.id for one in requirements)}
    message = "" if outcome is Outcome.PASSED else "it | broke\nmore"
    return TestResult(
        id=name, outcome=outcome, start=1.0, duration=1.0, message=message, properties={**named, **properties}
    )


def passed(*requirements: Requirement) -> TestResult:
    return result(Outcome.PASSED, *requirements, name="t::passed")


def failed(*requirements: Requirement, **properties: str) -> TestResult:
    return result(Outcome.FAILED, *requirements, name="t::failed", **properties)


def error(*requirements: Requirement, **properties: str) -> TestResult:
    return result(Outcome.ERROR, *requirements, name="t::error", **properties)


def run(*tests: TestResult, complete: bool = True) -> Results:
    return Results(RunInfo(start=1.0, hostname="h", command="kvtest run", plan=PLAN), tests, 9.0 if complete else None)
