# SPDX-License-Identifier: Apache-2.0
"""The whole examination of this machine, and the mending that does no harm."""

from __future__ import annotations

import time

import attrs

from kvtest.doctor import containerd, images, kata, kata_configuration, kernel, lab, machine, own, qemu, transports
from kvtest.doctor.gather import gather
from kvtest.doctor.report import GUESTS, Demands, Need, Report, Status, examine
from kvtest.doctor.system import System
from kvtest.errors import KvtestError
from kvtest.ownership import run
from kvtest.runtime.installation import find_program
from kvtest.runtime.preflight import chosen
from kvtest.runtime.profile import load
from kvtest.settings import LoadedSettings

CHECKS = (
    *qemu.CHECKS,
    *own.CHECKS,
    *images.CHECKS,
    *machine.CHECKS,
    *kernel.CHECKS,
    *transports.CHECKS,
    *containerd.CHECKS,
    *lab.CHECKS,
    *kata.CHECKS,
    *kata_configuration.CHECKS,
)
_FIX_SECONDS = 30.0


def demands(loaded: LoadedSettings, system: System) -> Demands:
    """Return what this machine is to run, and what of that has to work.

    A run skips the runtime ring where the machine lacks the default runtime, but not one that the user has named. Where
    it has that runtime, the tests are skipped whose driver is absent; one that is broken ends the run.
    """
    has_to, if_there = set(GUESTS), set() if system.without_runtime else {Need.RUNTIME}
    if chosen(loaded):
        has_to.add(Need.RUNTIME)
        if loaded.settings.runtime in kata.PROFILES:
            has_to |= kata_configuration.needs(system)
    wanted = {*has_to, Need.RUNTIME, *(kata_configuration.needs(system) if kata.installed(system) else ())}
    return Demands(frozenset(wanted), frozenset(has_to), frozenset(if_there))


def examination(loaded: LoadedSettings, *, fix: bool = False) -> Report:
    """Examine this machine.

    Args:
        loaded: The settings.
        fix: Mend what can be mended without harm, and examine it again.
    """
    begin = time.monotonic()
    system = gather(loaded.settings)
    report = _examined(system, loaded)
    if fix and (done := mend(report, root=system.root)):
        report = attrs.evolve(_examined(gather(loaded.settings), loaded), done=done)
    return attrs.evolve(report, seconds=time.monotonic() - begin)


def _examined(system: System, loaded: LoadedSettings) -> Report:
    report = examine(CHECKS, system, loaded.settings, demands(loaded, system))
    return with_pods(report) if load(loaded.settings.runtime).own else report


def with_pods(report: Report) -> Report:
    """Return a report in which what guests need is needed by the runtime ring, too: its pods are guests.

    Args:
        report: That of a machine whose runtime under test is the reference runtime.
    """
    of_guests = set(GUESTS)
    rows = [
        attrs.evolve(row, needed_by=(*row.needed_by, Need.RUNTIME)) if of_guests <= set(row.needed_by) else row
        for row in report.findings
    ]
    return attrs.evolve(report, findings=tuple(rows))


def mend(report: Report, *, root: bool) -> tuple[str, ...]:
    """Run the commands that mend findings and do no harm.

    Args:
        report: The findings.
        root: Whether we are root, which all of these commands need.

    Returns:
        A sentence on each.
    """
    commands = dict.fromkeys(row.fix for row in report.findings if row.fix is not None and row.status is not Status.OK)
    if not root:
        return tuple(f"{' '.join(command)}: not done, it needs root" for command in commands if command is not None)
    return tuple(_mended(command) for command in commands if command is not None)


def _mended(command: tuple[str, ...]) -> str:
    words = " ".join(command)
    try:
        answer = run([find_program(command[0]) or command[0], *command[1:]], deadline=_FIX_SECONDS)
    except (KvtestError, OSError) as error:
        return f"{words} failed: {str(error).splitlines()[0]}"
    if answer.status != 0:
        return f"{words} failed: {(answer.stderr or answer.stdout).strip() or f'exit status {answer.status}'}"
    return f"{words}: done"
