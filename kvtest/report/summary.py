# SPDX-License-Identifier: Apache-2.0
"""A few lines for the terminal."""

from __future__ import annotations

from collections import Counter

from kvtest.report.results import Outcome, Results
from kvtest.report.text import excerpt

_BAD = (Outcome.FAILED, Outcome.ERROR)
_LINE_LIMIT = 300


def summary_lines(results: Results) -> list[str]:
    """Return what a user wants to know at the end of a run: failures, violated requirements, counts.

    Args:
        results: The run.
    """
    lines = []
    for test in results.tests:
        if test.outcome in _BAD:
            lines.append(f"{test.outcome.upper()} {_short(test.id)}")
            lines += [f"    {text}" for text in (_short(test.message), _place("artifacts", test.properties)) if text]
    violated = Counter(
        name
        for test in results.tests
        if test.outcome is Outcome.FAILED
        for name in test.properties.get("requirement", "").split(", ")
        if name
    )
    lines += [f"violated: {_short(name)} ({count} test{'s' * (count > 1)})" for name, count in sorted(violated.items())]
    counted = ", ".join(f"{count} {_noun(outcome, count)}" for outcome, count in results.count().items() if count)
    interrupted = "" if results.complete else "; the run was interrupted"
    lines.append(f"{counted or 'no tests ran'} in {results.duration:.1f} s{interrupted}")
    return lines


def _noun(outcome: Outcome, count: int) -> str:
    return "errors" if outcome is Outcome.ERROR and count > 1 else outcome.value


def _place(name: str, properties: dict[str, str]) -> str:
    return f"{name}: {_short(properties[name])}" if name in properties else ""


def _short(text: str) -> str:
    return excerpt(text.partition("\n")[0], _LINE_LIMIT).replace("\n", " ")
