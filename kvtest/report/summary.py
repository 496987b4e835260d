# SPDX-License-Identifier: Apache-2.0
"""A few lines for the terminal."""

from __future__ import annotations

from collections import Counter

from kvtest.conformance import Status, Verdict
from kvtest.errors import LeakError
from kvtest.report.evidence import verdicts
from kvtest.report.results import Outcome, Results
from kvtest.report.text import excerpt
from kvtest.report.variants import variant_lines

_BAD = (Outcome.FAILED, Outcome.ERROR)
_LINE_LIMIT = 300
_TOLD = ("deadlines", "cloned_again", "not_run")  # what of the run itself bears on every verdict


def summary_lines(results: Results) -> list[str]:
    """Return what a user wants to know at the end of a run: failures, violated requirements, counts.

    Args:
        results: The run.
    """
    lines = []
    for test in results.tests:
        if test.outcome in _BAD:
            lines.append(f"{test.outcome.upper()} {line(test.id)}")
            after = "" if test.properties.get("error") == LeakError.__name__ else _place("leak", test.properties)
            told = (line(test.message), after, _place("artifacts", test.properties))
            lines += [f"    {text}" for text in told if text]
    lines += requirement_lines(verdicts(results))
    lines += variant_lines(results)
    lines += [
        f"{name.replace('_', ' ')}: {line(text)}" for name, text in results.run.properties.items() if name in _TOLD
    ]
    counted = ", ".join(f"{count} {_noun(outcome, count)}" for outcome, count in results.count().items() if count)
    incomplete = "" if results.complete else f"; {_incomplete(results)}"
    lines.append(f"{counted or 'no tests ran'} in {results.duration:.1f} s{incomplete}")
    return lines


def requirement_lines(each: tuple[Verdict, ...]) -> list[str]:
    """Return a line for every violated requirement, and one with the counts; none where no test names a requirement.

    Args:
        each: The verdicts.
    """
    if not any(verdict.tests for verdict in each):
        return []
    lines = []
    for verdict in each:
        if verdict.status is Status.VIOLATED:
            count = len(verdict.violated_by)
            by = f"{count} test{'s' * (count > 1)}"
            lines.append(f"violated: {verdict.requirement.id} ({verdict.requirement.level}, {by})")
    return [*lines, f"requirements: {counts(each)}"]


def counts(each: tuple[Verdict, ...]) -> str:
    """Return how many requirements have which status, as text; those that no run can be without first.

    Args:
        each: The verdicts.
    """
    counted = Counter(verdict.status for verdict in each)
    return ", ".join(f"{counted[status]} {status}" for status in Status if counted[status]) or "none"


def line(text: str) -> str:
    """Return the first line of a text, fit for a terminal.

    Args:
        text: Anything.
    """
    return excerpt(text.partition("\n")[0], _LINE_LIMIT).replace("\n", " ")


def _incomplete(results: Results) -> str:
    return "the run is not complete" if "not_run" in results.run.properties else "the run was interrupted"


def _noun(outcome: Outcome, count: int) -> str:
    return "errors" if outcome is Outcome.ERROR and count > 1 else outcome.value


def _place(name: str, properties: dict[str, str]) -> str:
    return f"{name}: {line(properties[name])}" if name in properties else ""
