# SPDX-License-Identifier: Apache-2.0
"""What is kept of the promises: from what tests say to a verdict for each requirement."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import attrs

from kvtest.conformance.coverage import Plan
from kvtest.conformance.requirements import Requirement

_MOST_REASONS = 3


class Answer(StrEnum):
    """What a test that is over says of the requirements that it names."""

    KEPT = "kept"
    BROKEN = "broken"
    NOT_APPLICABLE = "not applicable"
    """They do not concern what is under test, or cannot be checked here."""
    NONE = "none"
    """Nothing: something else went wrong."""


@attrs.frozen
class Evidence:
    """What one test says.

    Args:
        test: Its node ID.
        requirements: The IDs that it names.
        answer: What it says of them.
        reason: Why, in one line; empty for :attr:`Answer.KEPT`.
    """

    test: str
    requirements: tuple[str, ...]
    answer: Answer
    reason: str = ""


class Status(StrEnum):
    """What became of a requirement in a run."""

    MET = "met"
    """At least one test has checked it, and all that were to check it have found it kept."""
    VIOLATED = "violated"
    NOT_APPLICABLE = "not applicable"
    NOT_TESTED = "not tested"


@attrs.frozen
class Verdict:
    """What became of one requirement.

    Args:
        requirement: The requirement.
        status: What became of it.
        reason: Why it is not met.
        violated_by: The tests that have found it broken.
        checked_by: The tests that have found it kept.
        tests: How many tests name it, run or not.
    """

    requirement: Requirement
    status: Status
    reason: str
    violated_by: tuple[str, ...]
    checked_by: tuple[str, ...]
    tests: int

    @property
    def binding(self) -> bool:
        """Whether who violates it does not conform."""
        return self.requirement.level.binding


def judge(plan: Plan, evidence: Iterable[Evidence]) -> tuple[Verdict, ...]:
    """Return a verdict for each requirement of a plan, in its order.

    Args:
        plan: What was to be checked.
        evidence: What the tests that are over say.
    """
    cases = {requirement.id: _Case(requirement) for requirement in plan.requirements}
    named = {test.id: test.requirements for test in plan.tests}
    over = set()
    for one in evidence:
        over.add(one.test)
        # Of a test whose process crashed nothing is known but its ID.
        for case in _of(cases, one.requirements or named.get(one.test, ())):
            case.take(one)
    for test in plan.tests:
        if test.id not in over:
            for case in _of(cases, test.requirements):
                if test.not_applicable:
                    case.inapplicable[test.id] = test.not_applicable
                elif test.left_out:
                    case.left_out[test.id] = f"left out by {test.left_out}"
                else:
                    case.unfinished.append(test.id)
    return tuple(case.verdict(plan) for case in cases.values())


def _of(cases: dict[str, _Case], names: Iterable[str]) -> list[_Case]:
    return [cases[name] for name in dict.fromkeys(names) if name in cases]


class _Case:
    """What is known of one requirement."""

    def __init__(self, requirement: Requirement) -> None:
        self.requirement = requirement
        self.kept: list[str] = []
        self.broken: dict[str, str] = {}  # here and below: why, by test
        self.silent: dict[str, str] = {}
        self.inapplicable: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.unfinished: list[str] = []

    def take(self, evidence: Evidence) -> None:
        """Take what a test says."""
        if evidence.answer is Answer.KEPT:
            self.kept.append(evidence.test)
        else:
            kind = {
                Answer.BROKEN: self.broken,
                Answer.NONE: self.silent,
                Answer.NOT_APPLICABLE: self.inapplicable,
            }
            kind[evidence.answer][evidence.test] = evidence.reason

    def verdict(self, plan: Plan) -> Verdict:
        status, reason = self._status(plan)
        kinds = (self.kept, self.broken, self.silent, self.inapplicable, self.left_out, self.unfinished)
        return Verdict(
            self.requirement,
            status,
            reason,
            tuple(self.broken),
            tuple(self.kept),
            sum(map(len, kinds)),
        )

    def _status(self, plan: Plan) -> tuple[Status, str]:
        if self.broken:
            return Status.VIOLATED, _joined(self.broken.values())
        # A test that was to check it and has not is no reason to trust the others: it may be the one that fails.
        if self.silent or self.unfinished:
            reasons = [f"{test}: {reason}" for test, reason in self.silent.items()]
            if self.unfinished:
                reasons.append(f"the run ended before {_tests(self.unfinished)}")
            return Status.NOT_TESTED, _joined(reasons)
        if self.kept:
            return Status.MET, ""
        if self.left_out:
            return Status.NOT_TESTED, _joined(self.left_out.values())
        if self.inapplicable:
            return Status.NOT_APPLICABLE, _joined(self.inapplicable.values())
        missing = self.requirement.transports
        if missing and not set(missing) & set(plan.transports):
            return Status.NOT_APPLICABLE, not_selected(missing)
        return Status.NOT_TESTED, "no test of it was selected"


def not_selected(transports: Iterable[str]) -> str:
    """Return why tests over transports do not apply."""
    return f"transport {' and '.join(transports)} was not selected"


def _tests(tests: list[str]) -> str:
    return tests[0] if len(tests) == 1 else f"{len(tests)} of its tests"


def _joined(reasons: Iterable[str]) -> str:
    each = list(dict.fromkeys(reason for reason in reasons if reason))
    more = f"; and {len(each) - _MOST_REASONS} more" if len(each) > _MOST_REASONS else ""
    return "; ".join(each[:_MOST_REASONS]) + more
