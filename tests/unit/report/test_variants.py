# SPDX-License-Identifier: Apache-2.0
"""What a run with several guest kernels says of each."""

from __future__ import annotations

import json

from kvtest.conformance import Plan, PlannedTest, Status
from kvtest.report import Outcome, Results, RunInfo, summary_lines
from kvtest.report.conformance import conformance_json, conformance_markdown
from kvtest.report.variants import by_variant, variant_lines
from tests.unit.report.promises import MAY, MUST, MUST_NOT, SHOULD, result, run

KERNELS = ("5.10", "6.1", "path:/k")


def planned(test: str, requirement: str, kernel: str, **left: str) -> PlannedTest:
    return PlannedTest(test, (requirement,), variant=kernel, **left)


PLAN = Plan(
    (MUST, MUST_NOT, SHOULD, MAY),
    (
        *(planned(f"t::alike[{kernel}]", MUST.id, kernel) for kernel in KERNELS),
        *(planned(f"t::differs[{kernel}]", MUST_NOT.id, kernel) for kernel in KERNELS),
        planned("t::skipped[5.10]", SHOULD.id, "5.10"),
        planned("t::left[6.1]", SHOULD.id, "6.1", left_out="-k 'x'"),
        planned("t::without", MAY.id, ""),
    ),
    variants=KERNELS,
)
RESULTS = Results(
    RunInfo(start=1.0, hostname="h", plan=PLAN),
    (
        *(result(Outcome.PASSED, MUST, name=f"t::alike[{kernel}]") for kernel in KERNELS),
        result(Outcome.PASSED, MUST_NOT, name="t::differs[5.10]"),
        result(Outcome.FAILED, MUST_NOT, name="t::differs[6.1]"),
        result(Outcome.PASSED, MUST_NOT, name="t::differs[path:/k]"),
        result(Outcome.SKIPPED, SHOULD, name="t::skipped[5.10]"),
        result(Outcome.FAILED, MAY, name="t::without"),
    ),
    9.0,
)


def test_each_kernel_has_verdicts_of_its_own() -> None:
    rows = {row.requirement: row for row in by_variant(RESULTS)}
    statuses = {name: [verdict.status for verdict in row.verdicts.values()] for name, row in rows.items()}
    assert statuses == {
        MUST.id: [Status.MET] * 3,
        MUST_NOT.id: [Status.MET, Status.VIOLATED, Status.MET],
    }
    assert {name for name, row in rows.items() if row.differs} == {MUST_NOT.id}
    assert rows[MUST_NOT.id].verdicts["6.1"].violated_by == ("t::differs[6.1]",)


def test_the_lines_at_the_end_of_a_run() -> None:
    lines = [
        f"differs: {MUST_NOT.id}: met with 5.10, path:/k; violated with 6.1",
        "with 5.10, 6.1, path:/k: alike in 1 of 2 requirements",
    ]
    assert variant_lines(RESULTS) == lines
    assert set(lines) < set(summary_lines(RESULTS))


def test_one_kernel_is_not_compared() -> None:
    assert by_variant(run(result(Outcome.PASSED, MUST))) == ()
    assert variant_lines(run(result(Outcome.PASSED, MUST))) == []
    assert "by kernel or host" not in conformance_markdown(run(result(Outcome.PASSED, MUST)))


def test_for_machines_and_pages() -> None:
    table = json.loads(conformance_json(RESULTS, 1))
    assert table["variants"] == list(KERNELS)
    by_name = {row["id"]: row["by_variant"] for row in table["requirements"]}
    assert by_name[MUST_NOT.id] == {"5.10": "met", "6.1": "violated", "path:/k": "met"}
    assert by_name[MAY.id] == {}
    page = conformance_markdown(RESULTS).partition("## Requirements by kernel or host\n\n")[2].splitlines()
    assert page == [
        "| requirement | 5.10 | 6.1 | path:/k |",
        "|---|---|---|---|",
        "| **X-NOT-001** | ✅ met | ❌ violated | ✅ met |",
        "| X-MUST-001 | ✅ met | ✅ met | ✅ met |",
    ]
