# SPDX-License-Identifier: Apache-2.0
"""``kvtest doctor``: what works on this machine, what does not, and what mends it."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from kvtest.cli.console import output
from kvtest.cli.options import Given, loaded_of, with_settings
from kvtest.doctor.examination import examination
from kvtest.doctor.report import Report, Status

_STYLES = {Status.OK: "green", Status.MISSING: "bold red", Status.WARNING: "yellow", Status.NOT_NEEDED: "dim"}
_ARROW = "->"


@with_settings()
def doctor(
    given: Given,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as docs/doctor.md describes it")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Do what mends and does no harm: load a kernel module")] = False,
) -> None:
    """Check this machine; exit status 2 if a run without arguments would not work here."""
    report = examination(loaded_of(given), fix=fix)
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
    else:
        _show(report, fix)
    if not report.works:
        raise typer.Exit(2)


def _show(report: Report, fix: bool) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("check", "status", "needed by", "found, and what mends it"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "status")
    for row in report.findings:
        needed_by = ", ".join(map(str, row.needed_by))
        status = Text(str(row.status), style=_STYLES[row.status])
        # A line for each command: they are to be copied.
        lines = [row.found, *(f"{_ARROW} {line}" for line in (row.cure or "").splitlines())]
        table.add_row(Text(row.check), status, Text(needed_by), Text("\n".join(lines)))
    output.print(table)
    for sentence in report.done or (("nothing that --fix would mend",) if fix else ()):
        output.print(f"fix: {sentence}", highlight=False, markup=False)
    verdict = "kvtest run works here" if report.works else "kvtest run does not work here"
    output.print(f"{verdict} ({report.seconds:.1f} s)", highlight=False, markup=False)
