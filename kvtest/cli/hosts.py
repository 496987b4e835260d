# SPDX-License-Identifier: Apache-2.0
"""``kvtest run --host``: the suites on another host, with its results in the place of ours."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import attrs
import typer

from kvtest.cli.console import errors
from kvtest.cli.lab import open_lab
from kvtest.cli.remote import open_remote
from kvtest.cli.status import Status, status_of
from kvtest.errors import HostLostError, KvtestError, UnknownNameError, UsageError
from kvtest.host import lab, ssh_address
from kvtest.host.host import Host
from kvtest.host.lab_machine import MEMORY
from kvtest.host.memory import require_memory
from kvtest.image.recipe import load_kernels
from kvtest.report import ResultLog, Results, failures, summary_lines, write_junit
from kvtest.report.directory import HOSTS, JUNIT_FILE, MISSING_FILE, RESULTS_FILE
from kvtest.report.merge import merge
from kvtest.settings import LoadedSettings

KINDS = "lab, lab:KERNEL such as lab:6.12, or ssh://[USER@]MACHINE[:PORT]"
_NAMED = 3  # tests without a result that a message names


def run_on_each(hosts: Sequence[str], loaded: LoadedSettings, what: list[str], options: list[str], workers: str) -> int:
    """Run suites on one host, or on several one after the other, with one report.

    Args:
        hosts: The hosts, as the user wrote them.
        loaded: The settings of the run.
        what: Rings, files or tests; all rings if empty.
        options: Further options of ``kvtest run``.
        workers: How many workers the user has asked for; empty if that is left to us.

    Returns:
        The exit status of the run: of what is said of several hosts, 1 comes first, then 3, then 2.

    Raises:
        UsageError: There is no such host, or it does not have what is to be run.
        KvtestError: With one host: whatever ends its run.
    """
    hosts = list(dict.fromkeys(one.strip() for host in hosts for one in host.split(",") if one.strip()))
    if not hosts:
        raise UsageError("no host is named", hint=KINDS)
    for host in hosts:
        _check(host)
    if len(hosts) == 1:
        return _run_on(hosts[0], loaded, what, options, workers)
    base = loaded.settings.results / HOSTS
    directories = {host: base / host.replace("/", "_") for host in hosts}
    statuses: list[int] = []
    try:
        for host, directory in directories.items():
            directory.mkdir(parents=True)
            mine = loaded._replace(settings=attrs.evolve(loaded.settings, results=directory))
            try:
                statuses.append(_run_on(host, mine, what, options, workers))
            except KvtestError as error:  # the others may have something to say
                errors.print(f"kvtest: {host}: {error}", markup=False, highlight=False, soft_wrap=True)
                statuses.append(status_of(error))
    finally:
        _report_all(directories, loaded.settings.results)
    worst = (one for one in (Status.VIOLATED, Status.INTERNAL, Status.USAGE) if one in statuses)
    return next(worst, max(statuses))  # a run that was interrupted there has another status still


def _report_all(directories: Mapping[str, Path], target: Path) -> None:
    """Make one report of what there is from several hosts, and show what it says."""
    files = {host: directory / RESULTS_FILE for host, directory in directories.items()}
    runs = {host: Results.read(file) for host, file in files.items() if file.is_file() and file.stat().st_size}
    if not runs:
        return
    merged = merge(runs, shlex.join(sys.argv))
    if len(runs) < len(files):
        merged = attrs.evolve(merged, end=None)
    with ResultLog(target / RESULTS_FILE, merged.run) as log:
        for test in merged.tests:
            log.append(test)
        if merged.end is not None:
            log.finish(merged.end)
    write_junit(merged, target / JUNIT_FILE)
    for text in (*summary_lines(merged), f"report: {target / JUNIT_FILE}"):
        typer.echo(text)


def _check(host: str) -> None:
    scheme = host.partition(":")[0]
    if scheme not in (lab.SCHEME, ssh_address.SCHEME):
        raise UsageError(f"{host!r} is no host", hint=KINDS)
    kernel = lab.kernel_of(host) if scheme == lab.SCHEME else None
    if kernel is not None and not kernel.startswith("path:") and kernel not in load_kernels():
        raise UnknownNameError("kernel of a lab host", kernel, load_kernels())


def _run_on(host: str, loaded: LoadedSettings, what: list[str], options: list[str], workers: str) -> int:
    """Run suites on one other host, and return the exit status; the arguments are those of :func:`run_on_each`.

    Raises:
        UsageError: A setting makes no sense there.
        HostError: The host cannot be used.
        HostLostError: The host was lost; the results up to then are there.
    """
    scheme = host.partition(":")[0]
    results = loaded.settings.results
    machine: Host
    if scheme == lab.SCHEME:
        require_memory(MEMORY, "a lab host")
        machine, there, flags = open_lab(host, loaded, what, workers)
    else:
        machine, there, flags = open_remote(host, loaded, what, workers)
    with machine, ExitStack() as at_the_end:
        at_the_end.callback(machine.fetch, results)  # also of a run that is stopped
        try:
            status = machine.run(there, [*flags, *options], _write)
        except HostLostError as error:
            at_the_end.pop_all()
            return _ended_early(error, results)
    typer.echo(f"host: {host}, its results are in {results}")
    return status


def _ended_early(error: HostLostError, results: Path) -> int:
    """Tell what there is of a run whose host was lost; return its exit status.

    Raises:
        HostLostError: Nothing of it says that anything is violated.
    """
    file = results / RESULTS_FILE
    if not file.exists() or not file.stat().st_size:
        raise HostLostError(f"{error.message}; there are no results yet", hint=error.hint) from error
    read = Results.read(file)
    without_artifacts = _without_artifacts(read)
    _list_missing(results / MISSING_FILE, read.missing, without_artifacts)
    few = ", ".join(read.missing[:_NAMED]) + (", …" if len(read.missing) > _NAMED else "")
    lost = HostLostError(
        f"{error.message}; {_tests(len(read.tests))} had ended, whose results are in {results}, without the artifacts "
        f"of {len(without_artifacts)} of them, and {_tests(len(read.missing))} had not: {few or 'none is known'}",
        hint=f"{error.hint}; {results / MISSING_FILE} lists all that is missing, and "
        f"`kvtest report {results}` shows which requirements are not tested",
    )
    if not failures(read):
        raise lost from error
    errors.print(f"kvtest: {lost}", markup=False, highlight=False, soft_wrap=True)
    return Status.VIOLATED


def _without_artifacts(results: Results) -> Sequence[str]:
    return [test.id for test in results.tests if (path := test.properties.get("artifacts")) and not Path(path).is_dir()]


def _list_missing(file: Path, without_result: Sequence[str], without_artifacts: Sequence[str]) -> None:
    """Write down what did not come, one test per line."""
    lines = [
        *(f"no result: {test}" for test in without_result),
        *(f"no artifacts: {test}" for test in without_artifacts),
    ]
    with contextlib.suppress(OSError):  # the message says how many
        file.write_text("".join(f"{line}\n" for line in lines))


def _tests(count: int) -> str:
    return f"{count} test{'s' * (count != 1)}"


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
