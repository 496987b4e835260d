# SPDX-License-Identifier: Apache-2.0
"""What a run tells: the header, what is added to a failure, the results files and the summary."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from kvtest.deadline import slowness
from kvtest.plugin import options
from kvtest.plugin.collection import is_ours
from kvtest.plugin.plan import plan_of
from kvtest.plugin.state import existing_session

if TYPE_CHECKING:
    from kvtest.plugin.recorder import Recorder
    from kvtest.report import Results


class Reporting:
    """The hooks that follow a run.

    Args:
        config: pytest's configuration.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._recorder: Recorder | None = None
        #: The results of the whole run, after its end; none on a worker of xdist.
        self.results: Results | None = None
        # Reports from before the first test of ours; a run without one is none of our business.
        self._waiting: list[pytest.TestReport] = []
        self._held = contextlib.ExitStack()
        self._stopped = False

    def pytest_report_header(self) -> list[str]:
        """Name every setting that is not a default, and where it comes from."""
        try:
            return [f"kvtest: {line}" for line in options.loaded(self._config).report_lines()]
        except pytest.UsageError as error:  # stops a run that has tests of ours; others it does not concern
            return [f"kvtest: {error}"]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Note down what identifies a test's result."""
        if is_ours(item):
            from kvtest.plugin import explanation

            item.user_properties.extend(explanation.properties(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add to a failure what broke, which promise that violates, and how to see it again."""
        report = yield
        if is_ours(item) and call.excinfo is not None and report.failed:
            from kvtest.errors import KvtestError
            from kvtest.plugin import explanation

            try:
                explanation.explain(item, call.excinfo, report)
            except (KvtestError, OSError) as error:  # there is no place for results, or no room
                report.longrepr = f"{report.longreprtext}\n{error}"
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a report as soon as it is there: a run that is killed keeps what it had."""
        if hasattr(self._config, "workerinput"):
            return  # the controller gets it too
        self._waiting.append(report)
        from kvtest.errors import HostError, UsageError

        try:
            if self._recorder is None and any(name == "artifacts" for name, _ in report.user_properties):
                self._begin()
            if self._recorder is not None:
                for waiting in self._waiting:
                    self._recorder.add(waiting)
                self._waiting.clear()
        except (HostError, UsageError) as error:  # there is no place for results, or no room
            self._stopped = True
            pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)

    def _begin(self) -> None:
        """Begin with the results of a run that has tests of ours."""
        from kvtest.plugin.recorder import Recorder
        from kvtest.report.directory import held

        results = options.loaded(self._config).settings.results
        properties = {setting.name: text for setting, text, _ in options.loaded(self._config).changed()}
        if (slow := slowness()) is not None:
            properties["deadlines"] = slow
        session = existing_session(self._config)
        with session.ledger.lasting(self) if session is not None else contextlib.nullcontext():
            self._held.enter_context(held(results))
            self._recorder = Recorder(results, properties, plan_of(self._config), self._config.rootpath)

    def pytest_keyboard_interrupt(self) -> None:
        """Let a second Ctrl-C end at once; what the first one would still have ended, the keeper ends."""
        if self._recorder is not None or existing_session(self._config) is not None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """End every guest, then write the JUnit file."""
        ours = existing_session(self._config)
        if ours is not None:
            ours.close()
        if self._recorder is not None:
            interrupted = exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
            self.results = self._recorder.finish(interrupted=interrupted or self._stopped)
            if self._recorder.problem is not None:
                session.exitstatus = pytest.ExitCode.USAGE_ERROR
        self._held.close()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what came out, and where the results are."""
        if self._recorder is not None and self.results is not None:
            from kvtest.plugin.recorder import summary

            terminalreporter.section("kvtest")
            for line in summary(self.results, self._recorder.junit):
                terminalreporter.write_line(line)
            if self._recorder.problem is not None:
                terminalreporter.write_line(f"kvtest: {self._recorder.problem}", red=True)
