# SPDX-License-Identifier: Apache-2.0
"""Runs on several hosts as one."""

from __future__ import annotations

from attrs import evolve

from kvtest.conformance import Plan, PlannedTest, Status
from kvtest.report import Outcome, Results, RunInfo, failures, verdicts
from kvtest.report.merge import merge, on_host
from kvtest.report.variants import variant_lines
from tests.unit.report.promises import MUST, SHOULD, result


def run(outcome: Outcome, *variants: str, end: float | None = 9.0, start: float = 1.0) -> Results:
    names = [f"t::one[{variant}]" for variant in variants] or ["t::one"]
    planned = tuple(
        PlannedTest(name, (MUST.id,), variant=variant) for name, variant in zip(names, variants or ("",), strict=True)
    )
    info = RunInfo(
        start=start,
        hostname="h",
        properties={"kvtest": "1", "start": str(start)},
        plan=Plan((MUST, SHOULD), planned, variants=variants or ("6.12",)),
    )
    return Results(info, tuple(result(outcome, MUST, name=name) for name in names), end)


def test_what_one_host_violates_is_violated() -> None:
    merged = merge({"lab:6.1": run(Outcome.PASSED), "lab:7.2": run(Outcome.FAILED, start=0.5)}, "kvtest run")
    assert [test.id for test in merged.tests] == ["t::one[lab:6.1]", "t::one[lab:7.2]"]
    assert [test.properties["host"] for test in merged.tests] == ["lab:6.1", "lab:7.2"]
    assert (merged.run.start, merged.end, merged.complete) == (0.5, 9.0, True)
    assert merged.run.properties == {"kvtest": "1", "host": "lab:6.1, lab:7.2"}
    assert failures(merged) == (MUST.id,)
    assert variant_lines(merged) == [
        f"differs: {MUST.id}: met with lab:6.1; violated with lab:7.2",
        "with lab:6.1, lab:7.2: alike in 0 of 1 requirements",
    ]


def test_hosts_and_kernels() -> None:
    merged = merge({"a": run(Outcome.PASSED, "5.10", "6.1"), "b": run(Outcome.PASSED, "5.10", "6.1")}, "")
    assert merged.run.plan.variants == ("a 5.10", "a 6.1", "b 5.10", "b 6.1")
    assert variant_lines(merged) == ["with a 5.10, a 6.1, b 5.10, b 6.1: alike in 1 of 1 requirements"]


def test_one_that_did_not_come_to_its_end() -> None:
    merged = merge({"a": run(Outcome.PASSED), "b": evolve(run(Outcome.PASSED), tests=(), end=None)}, "")
    assert not merged.complete
    assert {one.requirement.id: one.status for one in verdicts(merged)}[MUST.id] is Status.NOT_TESTED


def test_ids() -> None:
    assert on_host("a.py::t[x]", "lab") == "a.py::t[x-lab]"
    assert on_host("a.py::t", "ssh://me@there:2222") == "a.py::t[ssh://me@there:2222]"
