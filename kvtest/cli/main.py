# SPDX-License-Identifier: Apache-2.0
"""All commands in one application, and what happens when one of them fails."""

from __future__ import annotations

import sys
import traceback
from enum import IntEnum

import typer

from kvtest.cli import doctor, gc, image, shell, suites
from kvtest.cli.console import errors
from kvtest.errors import GuestError, HostError, ImageError, KvtestError, RuntimeFailedError, UsageError, VMError


class Status(IntEnum):
    """Exit statuses."""

    CONFORMANT = 0
    VIOLATED = 1
    USAGE = 2
    INTERNAL = 3


app = typer.Typer(
    name="kvtest",
    help="End-to-end conformance tests for VM-isolated container runtimes.\n\n"
    "Exit statuses: 0 conformant, 1 a requirement is violated, 2 wrong usage or unfit environment, 3 internal error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(suites.run)
app.command("doctor")(doctor.doctor)
app.command("shell")(shell.shell)
app.command("gc")(gc.gc)
app.add_typer(image.app, name="image")


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


def status_of(error: KvtestError) -> Status:
    """Return the exit status for an error that ends a command."""
    expected = (UsageError, HostError, ImageError, VMError, GuestError, RuntimeFailedError)
    return Status.USAGE if isinstance(error, expected) else Status.INTERNAL
