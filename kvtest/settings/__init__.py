# SPDX-License-Identifier: Apache-2.0
"""kvtest's settings: one table that drives flags, variables, ini keys, configuration files and documentation.

Precedence, highest first: flag, environment variable, pytest's ini file, ``kvtest.toml``, ``[tool.kvtest]`` of
``pyproject.toml``, default.

Every pytest run of an environment with kvtest in it imports this package, so it imports little: no TOML parser until
there is a file to parse.
"""

from __future__ import annotations

from kvtest.settings.sources import LoadedSettings, Origin, Source, load
from kvtest.settings.table import NONE, SETTINGS, Setting, Settings, markdown

__all__ = [
    "NONE",
    "SETTINGS",
    "LoadedSettings",
    "Origin",
    "Setting",
    "Settings",
    "Source",
    "load",
    "markdown",
]
