# SPDX-License-Identifier: Apache-2.0
"""Results files: what goes in comes out, whatever happens in between."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kvtest.errors import HostError, UsageError
from kvtest.report import Outcome, ResultLog, Results, RunInfo, TestResult, stable_id

RUN = RunInfo(start=100.0, hostname="host", command="kvtest run", properties={"qemu": "7.2"})
TESTS = (
    TestResult(id="suites/a.py::test_x", outcome=Outcome.PASSED, start=100.5, duration=1.5),
    TestResult(
        id="suites/a.py::test_y[\ud800\0\x1b]",
        outcome=Outcome.FAILED,
        start=102.0,
        duration=0.25,
        message="é\U0001f980\udcff",
        details="a\nb\r\n",
        stdout="\0",
        stderr="{}",
        properties={"requirement": "VSOCK-CLOSE-001", "artifacts": "/tmp/a b"},
    ),
)


def written(path: Path, *, finished: bool = True) -> Path:
    with ResultLog(path, RUN) as log:
        for test in TESTS:
            log.append(test)
        if finished:
            log.finish(103.0)
    return path


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    results = Results.read(written(tmp_path / "new" / "directory" / "results.jsonl"))
    assert results == Results(RUN, TESTS, 103.0)
    assert results.complete
    assert results.duration == 3.0
    assert results.count() == {Outcome.PASSED: 1, Outcome.FAILED: 1, Outcome.ERROR: 0, Outcome.SKIPPED: 0}


def test_an_interrupted_run_lasted_until_its_last_test(tmp_path: Path) -> None:
    results = Results.read(written(tmp_path / "r", finished=False))
    assert not results.complete
    assert results.duration == 2.25


def test_a_file_cut_anywhere_keeps_its_whole_lines(tmp_path: Path) -> None:
    content = written(tmp_path / "whole").read_bytes()
    first = content.index(b"\n")
    cut = tmp_path / "cut"
    for length in range(first, len(content)):
        cut.write_bytes(content[:length])
        results = Results.read(cut)
        # A line that lacks nothing but its line feed is whole.
        whole = content[: length + 1].count(b"\n")
        assert results.tests == TESTS[: whole - 1]
        assert results.complete == (whole == 4)


def test_a_killed_run_keeps_its_results(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    code = (
        "import sys; from pathlib import Path\n"
        "from kvtest.report import Outcome, ResultLog, RunInfo, TestResult\n"
        "log = ResultLog(Path(sys.argv[1]), RunInfo(start=1.0, hostname='h'))\n"
        "for n in range(5): log.append(TestResult(id=f'a::t{n}', outcome=Outcome.PASSED, start=1.0, duration=0.1))\n"
        "print('written', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        child.kill()
    results = Results.read(path)
    assert [test.id for test in results.tests] == [f"a::t{number}" for number in range(5)]
    assert not results.complete


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        ("", "holds no results"),
        ('{"kind": "ru', "holds no results"),
        ("[]\n", ":1: does not begin a results file of format 2"),
        ('{"kind": "test"}\n', ":1: does not begin a results file of format 2"),
        ('{"kind": "run", "format": 1}\n', ":1: does not begin a results file of format 2"),
        ('{"kind": "run", "format": 2, "start": 1}\n', ":1: the key 'hostname' is missing"),
        ("RUN\nno json\n{}\n", ":2: not a line of JSON"),
        ("RUN\n[]\n", ":2: a line of unknown kind None"),
        ('RUN\n{"kind": "tset"}\n', ":2: a line of unknown kind 'tset'"),
        ('RUN\n{"kind": "test", "id": "a", "outcome": "fine", "start": 1, "duration": 1}\n', "no choice 'fine'"),
    ],
)
def test_what_is_no_results_file(tmp_path: Path, content: str, seen: str) -> None:
    path = tmp_path / "r"
    path.write_text(content.replace("RUN", '{"kind": "run", "format": 2, "start": 1, "hostname": "h"}'))
    with pytest.raises(UsageError) as caught:
        Results.read(path)
    assert str(path) in str(caught.value)
    assert seen in str(caught.value)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the results .*: No such file"):
        Results.read(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write results to .*: File exists"):
        ResultLog(tmp_path / "file" / "results.jsonl", RUN)


def test_a_full_disk_is_told() -> None:
    with pytest.raises(HostError, match="cannot write results to /dev/full: No space left on device"):
        ResultLog(Path("/dev/full"), RUN)


@pytest.mark.parametrize(
    ("node_id", "stable"),
    [
        ("a.py::test", "a.py::test"),
        ("a.py::test@group", "a.py::test"),
        ("a.py::T::test[x]@group", "a.py::T::test[x]"),
        ("a.py::test[x@y]", "a.py::test[x@y]"),
        ("a.py::test[x@y]@z", "a.py::test[x@y]"),
        ("a.py::test[x]y@z]", "a.py::test[x]y@z]"),
        ("a@b/c.py::test", "a@b/c.py::test"),
        ("a[b@c/d.py::test@e", "a[b@c/d.py::test"),
        ("a@b.py", "a@b.py"),
        ("", ""),
    ],
)
def test_the_group_of_a_worker_is_no_part_of_an_id(node_id: str, stable: str) -> None:
    assert stable_id(node_id) == stable


def test_ids_are_the_same_with_and_without_workers(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "def pytest_runtest_logreport(report):\n    if report.when == 'call': print('\\nran', report.nodeid)\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.xdist_group('g')\n"
        "@pytest.mark.parametrize('p', ['a@b', 'c[d]', 'e::f', 'g'])\n"
        "def test_it(p): pass\n"
        "class TestIt:\n"
        "    def test_it(self): pass\n"
    )

    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--rootdir=.", "-c", "/dev/null"]

    def ids(*options: str) -> set[str]:
        child = subprocess.run(
            [*command, *options],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        return {line.removeprefix("ran ") for line in child.stdout.splitlines() if line.startswith("ran ")}

    alone = ids()
    with_workers = ids("-n", "2", "--dist", "loadgroup")
    assert len(alone) == 5
    assert {stable_id(name) for name in with_workers} == alone
    assert {stable_id(name) for name in alone} == alone
