# SPDX-License-Identifier: Apache-2.0
"""Settings as pytest options: ``--kvtest-NAME`` and the ini key ``kvtest_NAME``."""

from __future__ import annotations

import os
import shlex

import pytest

from kvtest.errors import KvtestError
from kvtest.resources import suites_directory
from kvtest.settings import SETTINGS, LoadedSettings, load

_LOADED = pytest.StashKey[LoadedSettings]()
# Where things are put on this machine, which another machine does not repeat.
_PLACES = {"cache", "results", "run_directory"}


def register(parser: pytest.Parser) -> None:
    """Add an option and an ini key for each setting."""
    group = parser.getgroup("kvtest", "virtual machines and conformance suites")
    for setting in SETTINGS.values():
        text = f"{setting.help} (default: {setting.default_text})"
        group.addoption(
            setting.pytest_flag,
            dest=setting.ini_key,
            action="append" if setting.kind.repeatable else "store",
            default=None,
            metavar=setting.kind.metavar,
            help=text.replace("%", "%%"),
        )
        parser.addini(setting.ini_key, text, type="string", default=None)


def loaded(config: pytest.Config) -> LoadedSettings:
    """Return the settings in force.

    Raises:
        pytest.UsageError: One of them is wrong.
    """
    if _LOADED not in config.stash:
        names = {name: setting.ini_key for name, setting in SETTINGS.items()}
        try:
            config.stash[_LOADED] = load(
                {name: config.getoption(key) for name, key in names.items()},
                os.environ,
                {name: config.getini(key) or None for name, key in names.items()},
                config.invocation_params.dir,
                ini_file=config.inipath,
            )
        except KvtestError as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[_LOADED]


def check_before_workers(config: pytest.Config) -> None:
    """See that the settings are right before there are workers, each of which would end with the message.

    Raises:
        pytest.UsageError: One of them is wrong.
    """
    given = any(config.getoption(setting.ini_key) or config.getini(setting.ini_key) for setting in SETTINGS.values())
    if given and getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        loaded(config)


def reproduce_command(item: pytest.Item) -> str:
    """Return a command that runs one test again with the same settings, from where this run was started."""
    changed = loaded(item.config).changed()
    flags = [f"{setting.flag}={text}" for setting, text, _ in changed if setting.name not in _PLACES]
    file, separator, test = item.nodeid.partition("::")
    if not item.path.is_relative_to(suites_directory()):  # those are found from everywhere
        file = os.path.relpath(item.path, item.config.invocation_params.dir)
    return shlex.join(["kvtest", "run", f"{file}{separator}{test}", *flags])
