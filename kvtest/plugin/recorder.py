# SPDX-License-Identifier: Apache-2.0
"""From pytest's reports to results: a test's three reports become one result."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from pathlib import Path

import pytest
from attrs import evolve

from kvtest.conformance import Plan
from kvtest.errors import HostError, HostKernelError, InternalError, LeakError
from kvtest.report import Outcome, ResultLog, Results, RunInfo, TestResult, stable_id, summary_lines, write_junit
from kvtest.report.directory import JUNIT_FILE, RESULTS_FILE


class Recorder:
    """Writes the results of a run.

    Args:
        directory: Where the files go.
        properties: Facts that hold for the whole run.
        plan: What it means to do.
        root: The directory that the IDs of tests are relative to.
    """

    def __init__(self, directory: Path, properties: dict[str, str], plan: Plan, root: Path) -> None:
        self._directory = directory
        run = RunInfo(
            start=time.time(),
            hostname=platform.node(),
            command=shlex.join(sys.argv),
            root=str(root),
            properties=properties,
            plan=plan,
        )
        self._log = ResultLog(directory / RESULTS_FILE, run)
        self._running: dict[str, TestResult] = {}
        #: Why not everything could be written, if that is so.
        self.problem: HostError | None = None

    @property
    def junit(self) -> Path:
        """The JUnit file, there after :meth:`finish`."""
        return self._directory / JUNIT_FILE

    def add(self, report: pytest.TestReport) -> None:
        """Take one report; the last of a test completes its result."""
        test = stable_id(report.nodeid)
        result = self._running.get(test)
        if result is None:
            result = TestResult(id=test, outcome=Outcome.PASSED, start=report.start, duration=0.0)
        result = evolve(
            result,
            duration=result.duration + report.duration,
            properties=result.properties | {str(name): str(value) for name, value in report.user_properties},
            stdout=report.capstdout,
            stderr=report.capstderr,
        )
        if report.failed:
            result = _failed(result, report)
        elif report.skipped and result.outcome is Outcome.PASSED:
            result = _skipped(result, report)
        self._running[test] = result
        if report.when == "teardown":
            self._log.append(self._running.pop(test))

    def finish(self, *, interrupted: bool) -> Results:
        """Complete what a crash left without an end, and write the JUnit file.

        What the file system does not take is left out, and :attr:`problem` says why.

        Args:
            interrupted: Whether the run was ended before its last test.
        """
        try:
            for result in self._running.values():
                why = {**result.properties, **({"error": KeyboardInterrupt.__name__} if interrupted else {})}
                message = "the run ended before the test did"
                unfinished = evolve(result, outcome=Outcome.ERROR, message=message, properties=why)
                self._log.append(unfinished if result.outcome is Outcome.PASSED else result)
            if not interrupted:
                self._log.finish(time.time())
        except HostError as error:
            self.problem = error
        self._running.clear()
        self._log.close()
        results = Results.read(self._directory / RESULTS_FILE)
        try:
            write_junit(results, self.junit)
        except HostError as error:
            self.problem = self.problem or error
        return results


def summary(results: Results, junit: Path) -> list[str]:
    """Return what came out of a run, in lines for people."""
    lines = summary_lines(results)
    for name, title in (("guest_kernel", "guest kernel"), ("qemu", "QEMU"), ("accelerator", "accelerator")):
        values = sorted({test.properties[name] for test in results.tests if name in test.properties})
        if values:
            lines.append(f"{title}: {', '.join(values)}")
    return [*lines, f"report: {junit}"]


def _skipped(result: TestResult, report: pytest.TestReport) -> TestResult:
    expected: str | None = getattr(report, "wasxfail", None)
    if expected is not None and not expected.startswith("[NOTRUN]"):
        reason = expected.removeprefix("reason: ")
        properties = result.properties | {"xfail": reason}
        message = f"it fails, as expected: {reason}" if reason else "it fails, as expected"
        return evolve(result, outcome=Outcome.SKIPPED, message=message, properties=properties)
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else expected or report.longreprtext
    return evolve(result, outcome=Outcome.SKIPPED, message=reason.removeprefix("Skipped: "))


def _failed(result: TestResult, report: pytest.TestReport) -> TestResult:
    story = "".join(f"\n{text}\n" for title, text in report.sections if title == "kvtest")
    result = evolve(result, details=f"{result.details}{report.longreprtext}\n{story}")
    if result.outcome in (Outcome.FAILED, Outcome.ERROR):  # what fails after a failure is its consequence
        return result
    error = result.properties.get("error")
    # Our own fault says nothing about what is tested; what a test leaves, or has
    # done to the host, is found after its end, and is its failure.
    found_later = error in (LeakError.__name__, HostKernelError.__name__)
    failed = found_later or (report.when == "call" and error != InternalError.__name__)
    outcome = Outcome.FAILED if failed else Outcome.ERROR
    return evolve(result, outcome=outcome, message=_first_cause(report))


def _first_cause(report: pytest.TestReport) -> str:
    for title, text in report.sections:
        if title == "kvtest":
            return text.splitlines()[0].removeprefix("first cause: ")
    lines = report.longreprtext.strip().splitlines()
    return lines[-1] if lines else "failed without a message"
