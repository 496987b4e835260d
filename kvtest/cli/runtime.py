# SPDX-License-Identifier: Apache-2.0
"""``kvtest runtime``: which container runtimes can be tested, and what is missing to test one."""

from __future__ import annotations

from typing import Annotated

import typer

from kvtest.cli.console import output
from kvtest.cli.options import Given, settings_of, with_settings
from kvtest.runtime import profile
from kvtest.runtime.hypervisor import other_than_found
from kvtest.runtime.installation import configuration_of, problems, shim_of, version_of
from kvtest.settings import Settings

app = typer.Typer(help="Container runtimes that can be tested.", no_args_is_help=True)
_SETTINGS = ("shim", "runtime_config")


@app.command("list")
@with_settings("runtime_config")
def show(given: Given) -> None:
    """List the profiles, and whether this machine has what they need."""
    settings = settings_of(given)
    for name in profile.names():
        found = profile.load(name)
        missing = [problem.message for problem in problems(found, settings)]
        output.print(f"{name:10} {found.description}", highlight=False, markup=False)
        state = "can be tested here" if not missing else f"cannot be tested here: {'; '.join(missing)}"
        output.print(f"{'':10} {state}", highlight=False, markup=False, soft_wrap=True)


@app.command("check")
@with_settings(*_SETTINGS)
def check(
    given: Given,
    name: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A profile by name, or the path of one's own")],
) -> None:
    """Say what is missing to test a runtime, with the cures; exit status 2 if anything is."""
    settings = settings_of({**given, "runtime": name})
    found = profile.load(settings.runtime)
    missing = list(problems(found, settings))
    for problem in missing:
        output.print(f"missing  {problem}", highlight=False, markup=False, soft_wrap=True)
    if missing:
        raise typer.Exit(2)
    if (note := other_than_found(found, configuration_of(found, settings))) is not None:
        output.print(f"note     {note}", highlight=False, markup=False, soft_wrap=True)
    output.print(f"ok       {_described(found, settings)}", highlight=False, markup=False, soft_wrap=True)


def _described(found: profile.Profile, settings: Settings) -> str:
    shim = shim_of(found, settings)
    configuration = configuration_of(found, settings)
    told = f" with {configuration}" if configuration is not None else ""
    return f"{found.name} {version_of(found, shim) or 'of unknown version'}: {shim}{told}"
