# SPDX-License-Identifier: Apache-2.0
"""All commands in one application, and what happens when one of them fails."""

from __future__ import annotations

import sys
import traceback
from importlib import metadata
from typing import Annotated

import typer

from kvtest.cli import doctor, gc, image, report, runtime, shell, suites
from kvtest.cli.console import errors
from kvtest.cli.status import STATUSES, Status, status_of
from kvtest.errors import KvtestError

app = typer.Typer(
    name="kvtest",
    help=f"End-to-end conformance tests for VM-isolated container runtimes.\n\n{STATUSES}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run", epilog=STATUSES)(suites.run)
app.command("report", epilog=STATUSES)(report.report)
app.command("doctor")(doctor.doctor)
app.command("shell", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(shell.shell)
app.command("gc")(gc.gc)
app.add_typer(image.app, name="image")
app.add_typer(runtime.app, name="runtime")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"kvtest {metadata.version('kvtest')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the command that the process was started with, and exit."""
    try:
        app()
    except KvtestError as error:
        errors.print(f"kvtest: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(status_of(error))
    except Exception:
        traceback.print_exc()
        errors.print("kvtest: internal error; please report it with the traceback above", markup=False)
        sys.exit(Status.INTERNAL)
