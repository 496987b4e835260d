# SPDX-License-Identifier: Apache-2.0
"""The settings as options of commands, made from their one table."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from kvtest.cli.console import errors
from kvtest.settings import SETTINGS, LoadedSettings, Settings, load

Command = TypeVar("Command", bound=Callable[..., Any])

# How settings reach a command: by name, as text, None where not given.
Given = Mapping[str, str | list[str] | None]


_INTERRUPTED = 130  # as shells say of SIGINT


def with_settings(*names: str) -> Callable[[Command], Command]:
    """Give a command a flag for each setting; the command gets them as the mapping ``given``.

    Args:
        names: The settings; all if there is none.
    """
    chosen = names or tuple(SETTINGS)

    def decorate(command: Command) -> Command:
        def wrapper(**arguments: Any) -> Any:
            given = {name: arguments.pop(name) for name in chosen}
            try:
                return command(given=given, **arguments)
            except KeyboardInterrupt:  # typer would end with the status of a violated requirement
                errors.print("kvtest: interrupted", markup=False)
                raise typer.Exit(_INTERRUPTED) from None

        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
        wrapper.__signature__ = inspect.Signature([*own, *map(_parameter, chosen)])  # type: ignore[attr-defined]
        wrapper.__doc__ = command.__doc__
        return wrapper  # type: ignore[return-value]

    return decorate


def _parameter(name: str) -> inspect.Parameter:
    setting = SETTINGS[name]
    kind: Any = list[str] | None if setting.kind.repeatable else str | None
    option = typer.Option(
        setting.flag,
        metavar=setting.kind.metavar,
        help=f"{setting.help}. Default: {setting.default_text}",
        rich_help_panel="Settings",
        show_default=False,
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def settings_of(given: Given) -> Settings:
    """Return the settings in force for a command.

    Raises:
        SettingError: One of them is wrong.
    """
    return loaded_of(given).settings


def loaded_of(given: Given) -> LoadedSettings:
    """Return the settings in force for a command, and where they come from; raises as :func:`settings_of` does."""
    return load(given, os.environ, {}, Path.cwd(), flag_prefix="--")


def pytest_flags(given: Given) -> list[str]:
    """Return what was given as options of pytest."""
    flags = []
    for name, value in given.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        flags += [f"{SETTINGS[name].pytest_flag}={one}" for one in values]
    return flags
