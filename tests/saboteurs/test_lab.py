# SPDX-License-Identifier: Apache-2.0
"""As in ``test_rings.py``, for tests that need the vhost-vsock of a lab host's kernel.

They take minutes that each change need not wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from kvtest.control import Process
from kvtest.host.lab import Lab, kernel_of
from kvtest.report import Results
from kvtest.settings import Settings
from tests.saboteurs.plugin import ROUND, TABLE
from tests.saboteurs.registry import host, tables
from tests.saboteurs.rounds import Rounds

ROOT = Path(__file__).parents[2]
IN_THE_LAB = Path("/work")  # where kvtest runs there, and so where Python finds what is not installed

pytestmark = pytest.mark.thorough


def bring_saboteurs(lab: Lab) -> None:
    """Put this package into a lab host."""
    for file in (ROOT / "tests/__init__.py", *(ROOT / "tests/saboteurs").rglob("*.py")):
        target = IN_THE_LAB / file.relative_to(ROOT)
        lab._guest.run(["mkdir", "-p", str(target.parent)])
        lab._guest.write_file(str(target), file.read_bytes())


@pytest.mark.parametrize("table", [name for name in tables() if host(name) is not None])
def test_every_test_with_a_fault_fails_and_says_so(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    place, rounds = host(table), Rounds(table)
    said: list[bytes] = []
    assert place is not None
    files = sorted({test.partition("::")[0] for test in rounds.tests})
    with Lab(place, attrs.evolve(settings, results=tmp_path), kernel_of(place), tmp_path / "host") as lab:
        bring_saboteurs(lab)
        start: Callable[..., Process] = lab._guest.control.start_process
        variables = {"PYTEST_PLUGINS": f"tests.saboteurs.plugin,tests.saboteurs.rings.{table}", TABLE: table}

        def with_saboteurs(argv: list[str], *, environment: Mapping[str, str], **rest: Any) -> Process:
            return start(argv, environment={**environment, **variables}, **rest)

        monkeypatch.setattr(lab._guest.control, "start_process", with_saboteurs)
        for number in range(rounds.count):
            variables[ROUND] = str(number)
            lab._results = tmp_path / str(number)
            lab._results.mkdir()
            assert lab.run(files, [], said.append) == 1, b"".join(said).decode()
            rounds.take(number, Results.read(lab._results / "results.jsonl"))
    rounds.conclude()
