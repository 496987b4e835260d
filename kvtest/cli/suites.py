# SPDX-License-Identifier: Apache-2.0
"""``kvtest run``: the suites, under pytest."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
import typer

from kvtest.cli.console import progress
from kvtest.cli.options import Given, loaded_of, pytest_flags, with_settings
from kvtest.cli.status import status_of_run
from kvtest.errors import SettingError, UnknownNameError, UsageError
from kvtest.harness import GuestFactory
from kvtest.host.memory import workers_with_room
from kvtest.plugin.collection import is_ours, uses
from kvtest.plugin.preflight import wants_containerd
from kvtest.report import Results
from kvtest.report.directory import results_of_one_run
from kvtest.resources import suites_directory
from kvtest.runtime import preflight
from kvtest.runtime.agent_machine import AgentMachines
from kvtest.runtime.agent_place import AgentPlace, agent_place
from kvtest.settings import Settings


@with_settings()
def run(
    given: Given,
    what: Annotated[
        list[str] | None, typer.Argument(metavar="[RING|PATH]...", help="Rings, files or test IDs; all rings if none")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            "-n", metavar="N", help="Parallel workers; if not given, as many as there are processors and memory for"
        ),
    ] = None,
    keyword: Annotated[
        str | None, typer.Option("-k", metavar="EXPRESSION", help="Only tests whose names match", show_default=False)
    ] = None,
    exit_first: Annotated[bool, typer.Option("-x", "--exit-first", help="Stop at the first failure")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="A line per test")] = False,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="HOST",
            help="Run in a lab host, over the vhost-vsock of its kernel: lab, or lab:KERNEL such as lab:6.12; "
            "or on another machine: ssh://[USER@]MACHINE[:PORT]",
        ),
    ] = None,
) -> None:
    """Run suites against this machine's QEMU, and write kvtest-results/junit.xml with artifacts per test.

    The summary counts the requirements that are met, violated, not applicable and not tested.
    It names every violated one; `kvtest report` shows all of them.
    """
    loaded = loaded_of(given)
    settings = loaded.settings
    targets, ours = _targets(what or [])
    if workers is not None and workers != "auto" and not workers.isdecimal():
        raise SettingError(f"-n {workers}: the number of workers is a number, or auto")
    if host:
        from kvtest.cli.hosts import run_on_each  # half of what a command has to import, and most runs are here

        chosen = [*(["-k", keyword] if keyword else []), *(["-x"] if exit_first else []), *(["-v"] if verbose else [])]
        with results_of_one_run(settings.results), _stopped_by_sigterm():
            raise typer.Exit(run_on_each(host, loaded, what or [], chosen, workers or ""))
    selection = [
        *(["-c", str(suites_directory() / "pytest.ini"), f"--rootdir={suites_directory().parent}"] if ours else []),
        *pytest_flags(given),
        *(["-k", keyword] if keyword else []),
        *("-p", "no:cacheprovider"),
        # We are imported before pytest can rewrite our assertions, which are not tests'.
        *("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"),
        *targets,
    ]
    seen = _look_at(selection, settings)
    how = [
        *("-n", str(workers_for(seen.tests, settings.memory, workers))),
        *(["-x"] if exit_first else []),
        *(["-v"] if verbose else []),
    ]
    watcher = _Watcher()
    with results_of_one_run(settings.results), _stopped_by_sigterm():
        # Before pytest starts, so that whatever is wrong with this machine is one message and not one per test.
        factory = GuestFactory(settings, settings.results / "guests", progress=progress)
        if seen.guests:
            factory.prepare()
        if seen.agents:
            AgentMachines(factory, progress).try_out()
        if seen.addressed:
            preflight.try_agent(settings)
        if seen.pods:
            preflight.prepare(loaded, alone=seen.pods == seen.tests)
        if seen.containerd:
            preflight.try_containerd(settings)
        status = pytest.main([*how, *selection], plugins=[watcher])
    raise typer.Exit(status_of_run(int(status), watcher.results))


def workers_for(tests: int, memory: int, asked: str | None = None) -> int:
    """Return how many workers to run: what there are tests, processors and memory for; none besides us for one test.

    Args:
        tests: Number of tests.
        memory: MiB of a guest.
        asked: How many the user wants, ``auto`` or a number, which processors do not bound.
    """
    room = workers_with_room(memory)
    if asked is not None and asked != "auto":
        return min(int(asked), max(tests, 1), room)
    number = min(tests, len(os.sched_getaffinity(0)), room)
    return number if number > 1 else 0


class _Counter:
    """Counts the tests of a session, those of ours, and those that want a guest, an agent, a runtime, or containerd.

    Args:
        settings: The settings of the run.
    """

    tests = 0
    ours = 0
    guests = 0
    agents = 0
    addressed = 0
    pods = 0
    containerd = 0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        #: What is wrong with the settings of what is under test, if anything is.
        self.problem: UsageError | None = None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and self.problem is None:  # such as one with a syntax error
            what, said = report.nodeid or "the selection", str(report.longrepr).strip()
            errors = [line.removeprefix("E").rstrip() for line in said.splitlines() if line.startswith("E ")]
            self.problem = UsageError(
                f"could not collect the tests of {what}:\n" + ("\n".join(errors) or said),
                hint="pytest --collect-only says where that comes from",
            )

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.tests = len(session.items)
        self.ours = sum(map(is_ours, session.items))
        self.pods = sum(uses(item, "runtime") for item in session.items)
        self.containerd = sum(map(wants_containerd, session.items))
        with_agent = [item for item in session.items if uses(item, "endpoint")]
        try:
            place = agent_place(self._settings) if with_agent else AgentPlace.SERVICE
        except UsageError as error:  # pytest would take it for an error of its own
            self.problem = error
            return
        self.agents = len(with_agent) if place.bare else 0
        self.addressed = len(with_agent) if place is AgentPlace.ADDRESS else 0
        others = [item for item in session.items if uses(item, "guest") and not uses(item, "endpoint")]
        self.guests = len(others) + (len(with_agent) if place is AgentPlace.SERVICE else 0)


def _look_at(selection: list[str], settings: Settings) -> _Counter:
    """Collect the tests in this process: what is wrong with them is told better here than by workers.

    Args:
        selection: Options and arguments of pytest.
        settings: The settings of the run.

    Returns:
        What there is.

    Raises:
        UsageError: pytest refuses the selection, or a marker of a test; or there is no test of ours.
    """
    said, counter = io.StringIO(), _Counter(settings)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = pytest.main(["--collect-only", "-q", "-n", "0", *selection], plugins=[counter])
    if counter.problem is not None:
        raise counter.problem
    if status == pytest.ExitCode.INTERRUPTED:  # pytest has caught it, and there is a run to come
        raise KeyboardInterrupt
    if status == pytest.ExitCode.USAGE_ERROR:
        _, _, message = said.getvalue().rpartition("ERROR: ")
        raise UsageError(message.strip())
    if status == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise UsageError("there are no tests in what was selected", hint="see what -k and --transport leave over")
    if status == pytest.ExitCode.OK and not counter.ours:
        raise UsageError("none of the selected tests uses kvtest", hint="tests without it are run by pytest itself")
    return counter


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, with which a CI system cancels a job, do what Ctrl-C does: end, and keep the results."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Watcher:
    """Takes the results from the plugin at the end of the session."""

    def __init__(self) -> None:
        self.results: Results | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        reporting = session.config.pluginmanager.get_plugin("kvtest-reporting")
        self.results = getattr(reporting, "results", None)


def _targets(what: list[str]) -> tuple[list[str], bool]:
    """Return what pytest is to run, and whether all of it is of the shipped suites."""
    suites = suites_directory()
    rings = sorted(path.name for path in suites.iterdir() if (path / "__init__.py").is_file())
    if not what:
        return [str(suites / ring) for ring in rings], True
    found = []
    for name in what:
        path = name.partition("::")[0]
        if name in rings:
            found.append(suites / name)
        elif path.startswith("suites/") and (suites.parent / path).exists():
            found.append(suites.parent / path)
        elif Path(path).exists():
            found.append(Path(path).absolute())
        else:
            raise UnknownNameError("ring or path", name, rings)
    tests = [name.partition("::")[1:] for name in what]
    shipped = [name for name, path in zip(what, found, strict=True) if path.is_relative_to(suites)]
    others = [name for name in what if name not in shipped]
    if shipped and others:
        # pytest names tests by one directory, and those of one side would be told by names that are nobody's.
        raise UsageError(
            f"{shipped[0]} is of the shipped suites, and {others[0]} is not",
            hint="run them one after the other, each with its own --results",
        )
    return [f"{path}{separator}{test}" for path, (separator, test) in zip(found, tests, strict=True)], bool(shipped)
