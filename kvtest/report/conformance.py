# SPDX-License-Identifier: Apache-2.0
"""The whole table of requirements and what became of them, for machines and for a page that renders Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from kvtest.conformance import Status, Verdict
from kvtest.report.evidence import failures, verdicts
from kvtest.report.results import Results
from kvtest.report.summary import counts, line
from kvtest.report.variants import by_variant

INCOMPLETE = "The run is incomplete: it was stopped or killed, or is not over. What it had not tested is not known."
_MARKS = {Status.MET: "✅", Status.VIOLATED: "❌", Status.NOT_APPLICABLE: "⚪", Status.NOT_TESTED: "❔"}
# What Markdown or the HTML in it would take for its own.
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|~&#@]")


def conformance_json(results: Results, status: int) -> str:
    """Return the verdicts as a JSON object.

    Args:
        results: The run.
        status: The exit status that they ask for.
    """
    each = verdicts(results)
    kernels = {row.requirement: {name: one.status for name, one in row.verdicts.items()} for row in by_variant(results)}
    table = {
        "complete": results.complete,
        "status": status,
        "hostname": results.run.hostname,
        "start": results.run.start,
        "command": results.run.command,
        "transports": list(results.run.plan.transports),
        "variants": list(results.run.plan.variants),
        "tests": results.count(),
        "counts": {one: sum(verdict.status is one for verdict in each) for one in Status},
        "failures": list(failures(results)),
        "requirements": [{**_row(verdict), "by_variant": kernels.get(verdict.requirement.id, {})} for verdict in each],
    }
    return json.dumps(table, indent=2)


def _row(verdict: Verdict) -> Mapping[str, Any]:
    requirement = verdict.requirement
    return {
        "id": requirement.id,
        "level": requirement.level,
        "statement": requirement.statement,
        "sources": [
            {"document": source.document.title, "section": source.section, "url": source.document.url}
            for source in requirement.sources
        ],
        "rings": list(requirement.rings),
        "transports": list(requirement.transports),
        "status": verdict.status,
        "reason": verdict.reason,
        "violated_by": list(verdict.violated_by),
        "checked_by": list(verdict.checked_by),
        "tests": verdict.tests,
    }


def conformance_markdown(results: Results) -> str:
    """Return the verdicts as Markdown: what is violated first, then everything in a table that is folded away.

    Args:
        results: The run.
    """
    each = verdicts(results)
    lines = ["## Requirements", ""]
    if not results.complete:
        lines += [f"**{INCOMPLETE}**", ""]
    lines += [f"{counts(each)}.", ""]
    violated = [verdict for verdict in each if verdict.status is Status.VIOLATED]
    for verdict in violated:
        requirement = verdict.requirement
        lines.append(f"- ❌ **{requirement.id}** ({requirement.level}): {_escaped(requirement.statement)}")
        lines += [f"  - by {_escaped(test)}" for test in verdict.violated_by]
        lines += [f"  - {_escaped(verdict.reason)}"] if verdict.reason else []
    others = [name for name in failures(results) if name not in {verdict.requirement.id for verdict in violated}]
    lines += [f"- ❌ failed, whatever it checks: {_escaped(name)}" for name in others]
    lines += [""] if violated or others else []
    lines += ["<details><summary>All requirements</summary>", "", "| requirement | level | | tests | |"]
    lines.append("|---|---|---|---|---|")
    for verdict in each:
        cells = (
            verdict.requirement.id,
            verdict.requirement.level,
            f"{_MARKS[verdict.status]} {verdict.status}",
            tests_of(verdict),
            _escaped(verdict.reason or verdict.requirement.statement),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", "</details>", "", *_variant_table(results)])


def _variant_table(results: Results) -> list[str]:
    rows = by_variant(results)
    if not rows:
        return []
    kernels = results.run.plan.variants
    lines = ["## Requirements by kernel or host", ""]
    lines.append(f"| requirement | {' | '.join(map(_escaped, kernels))} |")
    lines.append("|---|" + "---|" * len(kernels))
    for row in sorted(rows, key=lambda row: not row.differs):  # those that differ come first
        name = f"**{row.requirement}**" if row.differs else row.requirement
        cells = (f"{_MARKS[verdict.status]} {verdict.status}" for verdict in row.verdicts.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def tests_of(verdict: Verdict) -> str:
    """Return how many tests have an answer, of how many that name the requirement.

    Args:
        verdict: The verdict.
    """
    return f"{len(verdict.checked_by) + len(verdict.violated_by)} of {verdict.tests}"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda match: "\\" + match[0], line(text))
