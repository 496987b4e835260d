# SPDX-License-Identifier: Apache-2.0
"""What the results of a run say of the requirements, and whether what was tested conforms."""

from __future__ import annotations

from kvtest.conformance import Answer, Evidence, Status, Verdict, judge
from kvtest.errors import LeakError
from kvtest.report.results import Outcome, Results, TestResult


def verdicts(results: Results) -> tuple[Verdict, ...]:
    """Return what became of each requirement of a run.

    Args:
        results: The run.
    """
    return judge(results.run.plan, map(evidence, results.tests))


def evidence(test: TestResult) -> Evidence:
    """Return what a test says of the requirements that it names.

    A test that failed because of what it left on the host says nothing of them, nor does one whose guest did not boot.

    Args:
        test: Its result.
    """
    answer = {
        Outcome.PASSED: Answer.KEPT,
        Outcome.FAILED: Answer.NONE if test.properties.get("error") == LeakError.__name__ else Answer.BROKEN,
        Outcome.ERROR: Answer.NONE,
        # Somebody expects it to fail: no reason to say that the promise is kept.
        Outcome.SKIPPED: Answer.BROKEN if "xfail" in test.properties else Answer.NOT_APPLICABLE,
    }[test.outcome]
    reason = "" if answer is Answer.KEPT else test.message.partition("\n")[0] or test.outcome.value
    return Evidence(test.id, test.requirements, answer, reason)


def failures(results: Results) -> tuple[str, ...]:
    """Return why what was tested does not conform: the binding requirements that are violated, then failed tests.

    Those tests are the ones that name no requirement, and those that have left something on the host, whatever else
    went wrong in them: no level of a requirement makes that a matter of taste.

    Args:
        results: The run.
    """
    violated = [one.requirement.id for one in verdicts(results) if one.status is Status.VIOLATED and one.binding]
    known = {requirement.id for requirement in results.run.plan.requirements}
    tests = [test.id for test in results.tests if "leak" in test.properties or _counts(test, known)]
    return (*violated, *tests)


def _counts(test: TestResult, known: set[str]) -> bool:
    """Whether a test failed and no known requirement says how much that matters."""
    unknown = not test.requirements or not known.issuperset(test.requirements)
    return test.outcome is Outcome.FAILED and unknown
