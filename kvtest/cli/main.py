# SPDX-License-Identifier: Apache-2.0
"""All commands in one application, and what happens when one of them fails."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Annotated, Any

import typer

from kvtest.cli.console import errors
from kvtest.cli.status import STATUSES, Status, status_of
from kvtest.errors import KvtestError

_AS_THEY_ARE = {"ignore_unknown_options": True, "allow_interspersed_args": False}
# The module of this package that has a command, in the order of the help, and what makes it a command.
_COMMANDS: dict[str, tuple[str, Callable[[typer.Typer, Any], object]]] = {
    "run": ("suites", lambda app, module: app.command("run", epilog=STATUSES)(module.run)),
    "report": ("report", lambda app, module: app.command("report", epilog=STATUSES)(module.report)),
    "doctor": ("doctor", lambda app, module: app.command("doctor")(module.doctor)),
    "shell": ("shell", lambda app, module: app.command("shell", context_settings=_AS_THEY_ARE)(module.shell)),
    "gc": ("gc", lambda app, module: app.command("gc")(module.gc)),
    "image": ("image", lambda app, module: app.add_typer(module.app, name="image")),
    "runtime": ("runtime", lambda app, module: app.add_typer(module.app, name="runtime")),
}


def application(arguments: Sequence[str]) -> typer.Typer:
    """Return the command line.

    Args:
        arguments: What it will be asked. A command that comes first is the only one that is imported: all of them
            together take longer than a short run.
    """
    app = typer.Typer(
        name="kvtest",
        help=f"End-to-end conformance tests for VM-isolated container runtimes.\n\n{STATUSES}",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        callback=_options,
    )
    for name in [name for name in _COMMANDS if name in arguments[:1]] or _COMMANDS:
        module, add = _COMMANDS[name]
        add(app, importlib.import_module(f"{__package__}.{module}"))
    return app


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"kvtest {metadata.version('kvtest')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the command that the process was started with, and exit."""
    try:
        application(sys.argv[1:])()
    except KvtestError as error:
        errors.print(f"kvtest: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(status_of(error))
    except Exception:
        traceback.print_exc()
        errors.print("kvtest: internal error; please report it with the traceback above", markup=False)
        sys.exit(Status.INTERNAL)
