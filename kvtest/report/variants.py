# SPDX-License-Identifier: Apache-2.0
"""Requirements by what a run was repeated with, kernels or hosts: what breaks with one and not with another."""

from __future__ import annotations

import attrs

from kvtest.conformance import Status, Verdict, judge
from kvtest.report.evidence import evidence
from kvtest.report.results import Results

_TESTED = (Status.MET, Status.VIOLATED)


@attrs.frozen
class Row:
    """What became of one requirement with each variant.

    Args:
        requirement: Its ID.
        verdicts: By variant, in the order in which they were named.
    """

    requirement: str
    verdicts: dict[str, Verdict]

    @property
    def differs(self) -> bool:
        """Whether the variants are not all alike; one that was not tested is not known to differ."""
        return len({verdict.status for verdict in self.verdicts.values()} - {Status.NOT_TESTED}) > 1

    @property
    def tested(self) -> bool:
        """Whether it was tested with each variant, or does not apply there."""
        return all(verdict.status is not Status.NOT_TESTED for verdict in self.verdicts.values())

    def __str__(self) -> str:
        by_status: dict[Status, list[str]] = {}
        for variant, verdict in self.verdicts.items():
            by_status.setdefault(verdict.status, []).append(variant)
        alike = (f"{status} with {', '.join(variants)}" for status, variants in by_status.items())
        return f"{self.requirement}: {'; '.join(alike)}"


def by_variant(results: Results) -> tuple[Row, ...]:
    """Return a row for each requirement that was tested with some variant; none where a run was not repeated.

    Args:
        results: The run.
    """
    plan = results.run.plan
    if len(plan.variants) < 2:
        return ()
    variants = {test.id: test.variant for test in plan.tests}
    said = [evidence(test) for test in results.tests]
    verdicts = {
        variant: judge(
            attrs.evolve(plan, tests=tuple(test for test in plan.tests if test.variant == variant)),
            [one for one in said if variants.get(one.test) == variant],
        )
        for variant in plan.variants
    }
    rows = (
        Row(requirement.id, {variant: each[number] for variant, each in verdicts.items()})
        for number, requirement in enumerate(plan.requirements)
    )
    return tuple(row for row in rows if any(verdict.status in _TESTED for verdict in row.verdicts.values()))


def variant_lines(results: Results) -> list[str]:
    """Return how the variants of a run differ, a line for each requirement; nothing where it was not repeated.

    Args:
        results: The run.
    """
    rows = by_variant(results)
    if not rows:
        return []
    differing = [f"differs: {row}" for row in rows if row.differs]
    unknown = sum(not row.differs and not row.tested for row in rows)
    alike = len(rows) - len(differing) - unknown
    variants = ", ".join(results.run.plan.variants)
    without = f", {unknown} not tested with all of them" if unknown else ""
    return [*differing, f"with {variants}: alike in {alike} of {len(rows)} requirements{without}"]
