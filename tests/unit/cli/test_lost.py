# SPDX-License-Identifier: Apache-2.0
"""What is told of a run on another host that has not come to its end."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from kvtest.cli import hosts
from kvtest.cli.hosts import _directories, run_on_each
from kvtest.conformance import Plan
from kvtest.errors import HostError, HostLostError, KvtestError
from kvtest.host.host import Host
from kvtest.host.interrupts import Interrupts
from kvtest.report import Outcome, ResultLog, Results, RunInfo, TestResult
from kvtest.settings import LoadedSettings, load

RUN = RunInfo(start=1000.0, hostname="h", command="kvtest run", plan=Plan((), (), ()))
NEAR, FAR = "ssh://near", "ssh://far"


class Other(Host):
    """A host whose run has some results, and then an end.

    Args:
        results: The results directory.
        outcomes: What became of its tests.
        end: Its exit status, or what happens in place of its end.
        fetching: What happens in place of its artifacts.
        interrupted: Whether the user interrupts it.
    """

    def __init__(
        self,
        results: Path,
        outcomes: Sequence[Outcome],
        end: int | KvtestError,
        fetching: KvtestError | None = None,
        *,
        interrupted: bool = False,
    ) -> None:
        self._results, self._outcomes, self._end, self._fetching = results, outcomes, end, fetching
        self._interrupted = interrupted

    def run(self, what: Sequence[str], options: Sequence[str], said: Callable[[bytes], None]) -> int:
        self.interrupts = Interrupts(lambda: None)
        self.interrupts.came = self._interrupted
        with ResultLog(self._results / "results.jsonl", RUN) as log:
            for number, outcome in enumerate(self._outcomes):
                artifacts = {"artifacts": str(self._results / "artifacts" / str(number))}
                log.append(
                    TestResult(id=f"test_{number}", outcome=outcome, start=1000.0, duration=1.0, properties=artifacts)
                )
            if isinstance(self._end, int) and self._end in (0, 1):
                log.finish(RUN.start + 10)
        if isinstance(self._end, KvtestError):
            raise self._end
        return self._end

    def fetch(self, directory: Path) -> None:
        if self._fetching is not None:
            raise self._fetching

    def close(self) -> None:
        pass


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedSettings:
    (tmp_path / "results").mkdir()
    found = load({}, {}, {}, Path("/"))
    return found._replace(settings=attrs.evolve(found.settings, results=tmp_path / "results"))


Run = Callable[..., int]


@pytest.fixture
def run(loaded: LoadedSettings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run on hosts, each of which is what is given with its name: the arguments of :class:`Other`, or an error."""

    def on(**others: tuple[Any, ...] | KvtestError) -> int:
        def opened(host: str, mine: LoadedSettings, *_given: object) -> tuple[Host, list[str], list[str]]:
            given = others[host.removeprefix("ssh://")]
            if isinstance(given, KvtestError):
                raise given
            outcomes, end, *rest = given
            fetching = next((one for one in rest if isinstance(one, KvtestError)), None)
            return Other(mine.settings.results, outcomes, end, fetching, interrupted="interrupted" in rest), [], []

        monkeypatch.setattr(hosts, "open_remote", opened)
        return run_on_each([f"ssh://{name}" for name in others], loaded, [], [], "")

    return on


def cases(path: Path) -> dict[str, str]:
    """Return what became of the test cases of a report that did not pass."""
    found = ET.parse(path).getroot().iter("testcase")
    return {str(case.get("name")): child.tag for case in found for child in case if child.tag != "system-out"}


def test_a_host_that_is_lost_is_an_error_in_the_report(run: Run, tmp_path: Path) -> None:
    lost = HostLostError("the lab host is lost: panicked: sysrq", hint="see it; the console ends with\n    | panic")
    with pytest.raises(
        HostLostError, match=r"panicked: sysrq; 1 test had ended, .* without the artifacts of 1 of them"
    ):
        run(near=([Outcome.PASSED], lost))
    assert cases(tmp_path / "results/junit.xml") == {f"host[{NEAR}]": "error"}
    (_, told) = Results.read(tmp_path / "results/results.jsonl").tests
    assert told.message == "the lab host is lost: panicked: sysrq"
    assert "| panic" in told.details
    assert (tmp_path / "results/missing.txt").read_text() == "no artifacts: test_0\n"


def test_a_violation_is_certain_whatever_is_lost(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(near=([Outcome.FAILED], HostLostError("the connection to near is lost: reset"))) == 1
    assert "kvtest: the connection to near is lost: reset; 1 test had ended" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "how"), [(137, "was killed by SIGKILL"), (126, "ended with status 126")])
def test_a_run_that_is_killed_there_is_told(run: Run, status: int, how: str) -> None:
    with pytest.raises(HostLostError, match=rf"kvtest on ssh://near {how}; 1 test had ended"):
        run(near=([Outcome.PASSED], status))


@pytest.mark.parametrize(("outcome", "end", "status"), [("failed", 1, 1), ("passed", 0, 2)])
def test_artifacts_that_do_not_come_make_no_certain_verdict_less_certain(
    run: Run, capsys: pytest.CaptureFixture[str], outcome: str, end: int, status: int
) -> None:
    assert run(near=([Outcome(outcome)], end, HostError("cannot write artifacts to /r: no room"))) == status
    said = capsys.readouterr().err.replace("\n", " ")
    assert "the artifacts of 1 test are missing: cannot write artifacts to /r: no room" in said


def test_what_did_not_run_is_in_the_report_of_several_hosts(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(near=([Outcome.PASSED], 0), far=HostError("could not find far")) == 2
    said = capsys.readouterr()
    assert "not run: ssh://far: could not find far\n" in said.out
    assert "; the run is not complete\n" in said.out
    assert "kvtest: ssh://far: could not find far" in said.err
    read = Results.read(tmp_path / "results/results.jsonl")
    assert (read.complete, read.run.plan.variants) == (False, (NEAR, FAR))


def test_hosts_whose_names_are_alike_have_directories_of_their_own(tmp_path: Path) -> None:
    found = _directories(["lab:path:/a/b", "lab:path:/a_b", "lab:path:_a_b-2", "lab"], tmp_path)
    names = ["lab:path:_a_b", "lab:path:_a_b-2", "lab:path:_a_b-2-2", "lab"]
    assert list(found.values()) == [tmp_path / name for name in names]


def test_an_interrupt_is_one_of_all_hosts(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(near=([Outcome.PASSED], 2, "interrupted"), far=([Outcome.PASSED], 0)) == 2
    assert "not run: ssh://far: the run was stopped before\n" in capsys.readouterr().out
