# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

from kvtest.conformance import Plan, PlannedTest
from kvtest.host.arriving import ArrivingResults
from kvtest.report import Outcome, ResultLog, Results, RunInfo, TestResult


def _run(directory: Path, *ended: str, complete: bool) -> bytes:
    """Return the lines of a run of three tests, of which some have ended."""
    plan = Plan(tests=tuple(PlannedTest(name, ()) for name in ("a", "b", "c")))
    with ResultLog(directory / "there.jsonl", RunInfo(start=1.0, hostname="lab", plan=plan)) as log:
        for name in ended:
            log.append(TestResult(id=name, outcome=Outcome.PASSED, start=2.0, duration=1.0))
        if complete:
            log.finish(9.0)
    return (directory / "there.jsonl").read_bytes()


def test_a_second_run_goes_on_where_the_first_has_ended(tmp_path: Path) -> None:
    with ArrivingResults(tmp_path) as results:
        results.take(_run(tmp_path, "a", complete=False))
        so_far = results.go_on({"cloned_again": "it fell silent"})
        assert so_far is not None
        assert so_far.missing == ("b", "c")
        first, *others = _run(tmp_path, "b", "c", complete=True).splitlines(keepends=True)
        results.take(first)
        results.take(b"".join(others))
    everything = Results.read(tmp_path / "results.jsonl")
    assert [test.id for test in everything.tests] == ["a", "b", "c"]
    assert everything.run.properties == {"cloned_again": "it fell silent"}
    assert everything.complete
    assert not everything.missing
    assert "it fell silent" in (tmp_path / "junit.xml").read_text()


def test_a_run_that_had_not_begun_is_as_a_first_one_with_the_facts(tmp_path: Path) -> None:
    with ArrivingResults(tmp_path) as results:
        assert results.go_on({"cloned_again": "it fell silent"}) is None
        results.take(_run(tmp_path, "a", "b", "c", complete=True))
    lines = (tmp_path / "results.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["run", "test", "test", "test", "end"]
    assert Results.read(tmp_path / "results.jsonl").run.properties == {"cloned_again": "it fell silent"}
