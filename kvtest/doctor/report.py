# SPDX-License-Identifier: Apache-2.0
"""Checks, what they find, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import attrs
from attrs import frozen

from kvtest.doctor.system import System
from kvtest.errors import KvtestError
from kvtest.settings import Settings

SCHEMA = 1
"""Version of the JSON report; raised when a key changes its meaning or goes. New keys may come without that."""


class Need(StrEnum):
    """What needs something."""

    TRANSPORT = "transport"
    AGENT = "agent"
    RUNTIME = "runtime"
    VHOST_VSOCK = "vhost-vsock"
    """The host kernel's own vsock device, in place of the one that kvtest serves."""
    KATA = "kata"
    """Kata Containers as the runtime under test."""
    LAB = "lab"
    """Lab hosts: ``--host lab``."""


GUESTS = (Need.TRANSPORT, Need.AGENT)
"""The rings of a run without arguments that no machine skips; what they lack makes the exit status."""
HOST_VSOCK = (Need.VHOST_VSOCK,)
"""Suites over the host's own vsock device, and Kata Containers with QEMU."""


class Status(StrEnum):
    """What to think of a finding."""

    OK = "ok"
    MISSING = "missing"
    WARNING = "warning"
    NOT_NEEDED = "not needed"
    """Missing, and nothing that this machine is to run needs it."""


@frozen
class Finding:
    """A row of the report.

    Args:
        check: What was looked at.
        found: What was seen.
        status: What to think of it.
        needed_by: What needs it; nothing for what is only told.
        cure: The command, or the words, that mend it.
        fix: A command that mends it and does no harm, for ``--fix``.
        absent: Whether it is not there at all, which is missing and not broken.
    """

    check: str
    found: str
    status: Status
    needed_by: tuple[Need, ...] = ()
    cure: str | None = None
    fix: tuple[str, ...] | None = None
    absent: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the row as the JSON report has it."""
        return {
            "check": self.check,
            "found": self.found,
            "status": str(self.status),
            "needed_by": [str(need) for need in self.needed_by],
            "cure": self.cure,
        }


@frozen
class Check:
    """A way to look at one thing.

    Args:
        name: What it looks at.
        needed_by: What needs that.
        look: Yields findings. A :class:`KvtestError` that it raises is a finding too: that it is missing.
    """

    name: str
    needed_by: tuple[Need, ...]
    look: Callable[[System, Settings], Iterable[Finding]]

    def findings(self, system: System, settings: Settings) -> Iterator[Finding]:
        """Yield what is found; never raises."""
        try:
            yield from self.look(system, settings)
        except KvtestError as error:
            yield Finding(self.name, error.message, Status.MISSING, self.needed_by, error.hint)
        except Exception as error:  # a machine that nobody has thought of is one row, and no traceback
            found = f"could not be checked: {type(error).__name__}: {error}"
            yield Finding(
                self.name, found, Status.MISSING, self.needed_by, "please report it with kvtest doctor --json"
            )


@frozen
class Report:
    """Everything that was found.

    Args:
        findings: The rows.
        demanded: What has to work.
        if_there: What has to work with what is there: a run leaves out what needs that which is absent.
        seconds: How long it took.
        done: What ``--fix`` did, a sentence each.
    """

    findings: tuple[Finding, ...]
    demanded: frozenset[Need] = frozenset(GUESTS)
    if_there: frozenset[Need] = frozenset()
    seconds: float = 0.0
    done: tuple[str, ...] = ()

    @property
    def works(self) -> bool:
        """Whether nothing is missing that is demanded."""
        return not any(row.status is Status.MISSING and self._demands(row) for row in self.findings)

    def _demands(self, row: Finding) -> bool:
        demanded = self.demanded if row.absent else self.demanded | self.if_there
        return bool(demanded & set(row.needed_by))

    def as_json(self) -> dict[str, Any]:
        """Return the report as ``kvtest doctor --json`` prints it (docs/doctor.md)."""
        return {
            "schema": SCHEMA,
            "works": self.works,
            "seconds": round(self.seconds, 3),
            "done": list(self.done),
            "checks": [row.as_json() for row in self.findings],
        }


class Demands(NamedTuple):
    """What a machine is to run, and what of that has to work.

    Args:
        wanted: What it is to run; what only others need is not missing.
        demanded: What of that has to work.
        if_there: What of that has to work with what is there, as of :class:`Report`.
    """

    wanted: frozenset[Need]
    demanded: frozenset[Need]
    if_there: frozenset[Need] = frozenset()


def examine(checks: Iterable[Check], system: System, settings: Settings, demands: Demands) -> Report:
    """Return what all checks find.

    Args:
        checks: The checks.
        system: The machine.
        settings: The settings in force.
        demands: What the machine is to run.
    """
    rows = [row for check in checks for row in check.findings(system, settings)]
    return Report(tuple(_judged(row, demands.wanted) for row in rows), demands.demanded, demands.if_there)


def _judged(row: Finding, wanted: frozenset[Need]) -> Finding:
    if row.status is Status.MISSING and not wanted & set(row.needed_by):
        return attrs.evolve(row, status=Status.NOT_NEEDED)
    return row
