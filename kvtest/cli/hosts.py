# SPDX-License-Identifier: Apache-2.0
"""``kvtest run --host``: the suites on another host, with its results in the place of ours."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import typer

from kvtest.cli.console import errors
from kvtest.cli.lab import open_lab
from kvtest.cli.lost import ended_early, fetched, list_missing
from kvtest.cli.remote import open_remote
from kvtest.cli.status import Status, status_of
from kvtest.errors import HostLostError, KvtestError, UnknownNameError, UsageError
from kvtest.host import lab, ssh_address
from kvtest.host.host import Host
from kvtest.host.memory import LAB_MEMORY, require_memory
from kvtest.image.recipe import load_kernels
from kvtest.report import ResultLog, Results, summary_lines, write_junit
from kvtest.report.directory import HOSTS, JUNIT_FILE, RESULTS_FILE
from kvtest.report.merge import merge
from kvtest.settings import LoadedSettings, Settings

KINDS = "lab, lab:KERNEL such as lab:6.12, or ssh://[USER@]MACHINE[:PORT]"
_OF_A_SIGNAL = 128  # added to its number where a shell tells that it ended a process


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
        return _run_on(hosts[0], loaded, what, options, workers).status
    for host in hosts:  # all of them before the first takes minutes
        _check_address(host, loaded.settings)
    directories = _directories(hosts, loaded.settings.results / HOSTS)
    statuses: list[int] = []
    not_run = dict.fromkeys(hosts, "the run was stopped before")
    try:
        for host, directory in directories.items():
            directory.mkdir(parents=True)
            mine = loaded._replace(settings=attrs.evolve(loaded.settings, results=directory))
            try:
                ended = _run_on(host, mine, what, options, workers)
            except KvtestError as error:  # the others may have something to say
                errors.print(f"kvtest: {_of_host(host, error)}", markup=False, highlight=False, soft_wrap=True)
                statuses.append(status_of(error))
                not_run[host] = error.message
                continue
            statuses.append(ended.status)
            if ended.interrupted:
                break
    finally:
        _report_all(directories, loaded.settings.results, not_run)
    worst = (one for one in (Status.VIOLATED, Status.INTERNAL, Status.USAGE) if one in statuses)
    return next(worst, max(statuses))


def _directories(hosts: Sequence[str], base: Path) -> dict[str, Path]:
    """Return a directory for each host, named as it is, as far as names of files can be."""
    found: dict[str, Path] = {}
    for host in hosts:
        name = host.replace("/", "_")
        names = (name, *(f"{name}-{number}" for number in range(2, len(hosts) + 2)))
        found[host] = next(base / one for one in names if base / one not in found.values())
    return found


def _of_host(host: str, error: KvtestError) -> str:
    """Return what an error says, with the host that it is about."""
    return str(error) if host in error.message else f"{host}: {error}"


def _report_all(directories: Mapping[str, Path], target: Path, not_run: Mapping[str, str]) -> None:
    """Make one report of what there is from several hosts, and show what it says.

    Args:
        directories: The results directories by host.
        target: The results directory of all of them.
        not_run: Why a host has no results, if it has none.
    """
    files = {host: directory / RESULTS_FILE for host, directory in directories.items()}
    runs = {host: Results.read(file) for host, file in files.items() if file.is_file() and file.stat().st_size}
    if not runs:
        return
    merged = merge(runs, shlex.join(sys.argv), {host: not_run[host] for host in files if host not in runs})
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


def _check_address(host: str, settings: Settings) -> None:
    if host.partition(":")[0] == ssh_address.SCHEME:
        from kvtest.host import private_keys  # paramiko takes a tenth of a second, and most runs are here

        private_keys.check(ssh_address.SSHAddress.of(host, settings.ssh_key, settings.ssh_known_hosts))


@attrs.frozen
class _Ended:
    """How a run on one host ended.

    Args:
        status: Its exit status.
        interrupted: Whether the user wanted it to.
    """

    status: int
    interrupted: bool = False


def _run_on(host: str, loaded: LoadedSettings, what: list[str], options: list[str], workers: str) -> _Ended:
    """Run suites on one other host; the arguments are those of :func:`run_on_each`.

    Raises:
        UsageError: A setting makes no sense there.
        HostError: The host cannot be used.
        HostLostError: The host was lost; the results up to then are there.
    """
    scheme = host.partition(":")[0]
    results = loaded.settings.results
    machine: Host
    if scheme == lab.SCHEME:
        require_memory(LAB_MEMORY, "a lab host")
        machine, there, flags = open_lab(host, loaded, what, workers)
    else:
        machine, there, flags = open_remote(host, loaded, what, workers)
    with machine:
        try:
            status = machine.run(there, [*flags, *options], _write)
        except HostLostError as error:
            status = ended_early(host, error, results)
        except BaseException:
            fetched(machine, results)
            raise
        else:
            brought = fetched(machine, results)
            if status not in set(Status):
                status = ended_early(host, _killed(host, status), results)
            elif not brought:
                list_missing(results)
            status = status or brought
            typer.echo(f"host: {host}, its results are in {results}")
    return _Ended(status, machine.interrupts is not None and machine.interrupts.came)


def _killed(host: str, status: int) -> HostLostError:
    """Return the error for a run there that has ended as none does by itself."""
    number = status - _OF_A_SIGNAL
    known = number in set(signal.Signals)
    how = f"was killed by {signal.Signals(number).name}" if known else f"ended with status {status}"
    hint = "a machine without memory kills what takes most of it: its kernel's log says so (dmesg)"
    return HostLostError(f"kvtest on {host} {how}", hint=hint)


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
