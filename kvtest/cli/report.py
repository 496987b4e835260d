# SPDX-License-Identifier: Apache-2.0
"""``kvtest report``: what became of every requirement in a run, from the results that it left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from kvtest.cli.console import errors, output
from kvtest.cli.options import settings_of
from kvtest.cli.status import status_of_results
from kvtest.conformance import Status, Verdict
from kvtest.errors import UsageError
from kvtest.report import Results, summary_lines, verdicts
from kvtest.report.conformance import INCOMPLETE, conformance_json, conformance_markdown, tests_of
from kvtest.report.directory import RESULTS_FILE
from kvtest.report.summary import line
from kvtest.report.variants import Row, by_variant

_STYLES = {Status.MET: "green", Status.VIOLATED: "bold red", Status.NOT_APPLICABLE: "dim", Status.NOT_TESTED: "yellow"}


def report(
    results: Annotated[
        Path | None,
        typer.Argument(metavar="[RESULTS]", help="Directory that a run has left, or its results.jsonl"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for machines")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown, for the summary page of a CI")] = False,
) -> None:
    """Show what became of every requirement in a run: met, violated, not applicable, not tested, and why.

    Without RESULTS it is the run in the results directory of the settings.
    A run that was stopped or killed is shown as far as it came.
    """
    if as_json and as_markdown:
        raise UsageError("--json and --markdown exclude each other")
    read = _read(results if results is not None else settings_of({}).results)
    status = status_of_results(read)
    if as_json:
        _write(conformance_json(read, status))
    elif as_markdown:
        _write(conformance_markdown(read))
    else:
        output.print(_table(verdicts(read)), soft_wrap=False)
        if rows := by_variant(read):
            output.print(_variant_table(rows), soft_wrap=False)
        for text in summary_lines(read):
            output.print(text, markup=False, highlight=False)
    if not read.complete:
        errors.print(f"kvtest: {INCOMPLETE}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(status)


def _read(path: Path) -> Results:
    if not path.is_dir():
        return Results.read(path)
    file = path / RESULTS_FILE
    if not file.exists():
        raise UsageError(
            f"there are no results in {path}: no {RESULTS_FILE}",
            hint="a run leaves them once its first test has begun; name the directory that was given with --results",
        )
    return Results.read(file)


def _write(text: str) -> None:
    output.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _variant_table(rows: tuple[Row, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title="by kernel or host", title_justify="left")
    table.add_column("requirement", no_wrap=True)
    for kernel in rows[0].verdicts:
        table.add_column(kernel, overflow="fold")
    for row in sorted(rows, key=lambda row: not row.differs):  # those that differ come first
        statuses = [verdict.status for verdict in row.verdicts.values()]
        table.add_row(row.requirement, *(Text(status, style=_STYLES[status]) for status in statuses))
    return table


def _table(each: tuple[Verdict, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("requirement", "level", "verdict"):
        table.add_column(name, no_wrap=True)
    table.add_column("tests", justify="right", no_wrap=True)
    table.add_column("why, or what is promised", overflow="fold")
    for verdict in each:
        by = f"{', '.join(verdict.violated_by)}: " if verdict.violated_by else ""
        table.add_row(
            verdict.requirement.id,
            verdict.requirement.level,
            Text(verdict.status, style=_STYLES[verdict.status]),
            tests_of(verdict),
            Text(line(f"{by}{verdict.reason}") if verdict.reason else verdict.requirement.statement),
        )
    return table
