# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from kvtest.doctor import Check, Finding
from kvtest.doctor.system import System
from kvtest.settings import Settings
from kvtest.typed import structure

MACHINES = Path(__file__).parents[2] / "data" / "doctor"

Machine = Callable[[str], System]
Look = Callable[[tuple[Check, ...], System], dict[str, Finding]]


@pytest.fixture
def machine() -> Machine:
    """Describes a machine, by the name of its file."""

    def described(name: str) -> System:
        path = MACHINES / f"{name}.toml"
        return structure(System, tomllib.loads(path.read_text()), where=str(path))

    return described


@pytest.fixture
def look(settings: Settings) -> Look:
    """Returns what checks find on a machine, by the name of the row, the last of several."""
    return lambda checks, system: {row.check: row for check in checks for row in check.findings(system, settings)}
