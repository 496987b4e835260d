# SPDX-License-Identifier: Apache-2.0
"""What results say of requirements, and the tables that are made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvtest.conformance import Answer
from kvtest.report import Outcome, ResultLog, Results, TestResult, evidence, failures, verdicts
from kvtest.report.conformance import conformance_json, conformance_markdown
from tests.unit.report.promises import MUST, MUST_NOT, SHOULD, error, failed, passed, result, run

LEAK = {"error": "LeakError", "leak": "left behind"}


@pytest.mark.parametrize(
    ("test", "answer"),
    [
        (passed(MUST), Answer.KEPT),
        (failed(MUST), Answer.BROKEN),
        (failed(MUST, error="AssertionError", leak="left behind"), Answer.BROKEN),
        (failed(MUST, **LEAK), Answer.NONE),
        (error(MUST, error="BootError"), Answer.NONE),
        (result(Outcome.SKIPPED, MUST), Answer.NOT_APPLICABLE),
        (result(Outcome.SKIPPED, MUST, xfail="known"), Answer.BROKEN),
    ],
)
def test_what_a_test_says(test: TestResult, answer: Answer) -> None:
    said = evidence(test)
    assert (said.test, said.requirements, said.answer) == (test.id, (MUST.id,), answer)
    assert said.reason == ("" if answer is Answer.KEPT else "it | broke")


def test_failures_are_binding_requirements_and_tests_that_no_level_excuses() -> None:
    leaked = result(Outcome.FAILED, SHOULD, name="t::leaked", **LEAK)
    free = result(Outcome.FAILED, name="t::free")
    assert failures(run(failed(MUST, SHOULD), leaked, free, passed(MUST_NOT))) == (MUST.id, "t::leaked", "t::free")


def test_a_plan_survives_the_file(tmp_path: Path) -> None:
    written = run(failed(MUST), passed(SHOULD))
    with ResultLog(tmp_path / "r", written.run) as log:
        for test in written.tests:
            log.append(test)
        log.finish(9.0)
    read = Results.read(tmp_path / "r")
    assert read == written
    assert verdicts(read) == verdicts(written)


def test_json() -> None:
    table = json.loads(conformance_json(run(failed(MUST), passed(SHOULD), complete=False), 1))
    assert table["complete"] is False
    assert table["status"] == 1
    assert table["counts"] == {"met": 1, "violated": 1, "not applicable": 0, "not tested": 2}
    assert table["failures"] == [MUST.id]
    assert [(row["id"], row["level"], row["status"]) for row in table["requirements"]] == [
        ("X-MUST-001", "MUST", "violated"),
        ("X-NOT-001", "MUST NOT", "not tested"),
        ("X-SHOULD-001", "SHOULD", "met"),
        ("X-MAY-001", "MAY", "not tested"),
    ]
    assert table["requirements"][0]["violated_by"] == ["t::failed"]
    assert table["requirements"][0]["sources"] == [
        {"document": "A | specification", "section": "4.2", "url": "https://spec.example"}
    ]
    assert table["requirements"][3]["reason"] == "left out by -k 'x'"


def test_markdown() -> None:
    page = conformance_markdown(run(failed(MUST), passed(SHOULD), result(Outcome.FAILED, name="t::f_r|e<e>")))
    assert page == (
        """## Requirements

1 met, 1 violated, 2 not tested.

- ❌ **X-MUST-001** (MUST): It \\*holds\\*.
  - by t::failed
  - it \\| broke
- ❌ failed, whatever it checks: t::f\\_r\\|e\\<e\\>

<details><summary>All requirements</summary>

| requirement | level | | tests | |
|---|---|---|---|---|
| X-MUST-001 | MUST | ❌ violated | 1 of 1 | it \\| broke |
| X-NOT-001 | MUST NOT | ❔ not tested | 0 of 0 | no test of it was selected |
| X-SHOULD-001 | SHOULD | ✅ met | 1 of 1 | It \\*holds\\*. |
| X-MAY-001 | MAY | ❔ not tested | 0 of 1 | left out by -k 'x' |

</details>
"""
    )


def test_an_incomplete_run_says_so_first() -> None:
    page = conformance_markdown(run(passed(MUST), complete=False))
    assert page.startswith("## Requirements\n\n**The run is incomplete: ")
