# SPDX-License-Identifier: Apache-2.0
"""The tests of a ring fail when what they test is broken, and every binding requirement is seen to be violated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvtest.report import Results
from kvtest.runtime.installation import root_is_mount_point
from kvtest.settings import Settings
from tests.saboteurs.plugin import ONCE, ROUND, TABLE
from tests.saboteurs.registry import host, options, ring_of, tables
from tests.saboteurs.rounds import Rounds

ROOT = Path(__file__).parents[2]
# What they break is broken under the other driver too, or takes many pods.
THOROUGH = ("runtime_guest_containerd", "runtime_machine_containerd", "runtime_pods_in_a_row")


def _table(name: str) -> object:
    chroot = pytest.mark.skipif(not root_is_mount_point(), reason="runc makes no containers in a chroot")
    marks = [chroot] if name in ("runtime", "runtime_pods_in_a_row") else []
    return pytest.param(name, marks=[*marks, pytest.mark.thorough] if name in THOROUGH else marks)


@pytest.mark.parametrize("table", [_table(name) for name in tables() if host(name) is None])
def test_every_test_with_a_fault_fails_and_says_so(
    settings: Settings, tmp_path: Path, table: str, thorough: bool
) -> None:
    rounds = Rounds(table)
    (ring,) = {ring_of(test) for test in rounds.tests}
    environment = {
        **os.environ,
        "KVTEST_CACHE": str(settings.cache),
        "PYTEST_PLUGINS": f"tests.saboteurs.plugin,tests.saboteurs.rings.{table}",
        "PYTHONPATH": str(ROOT),
        TABLE: table,
        **({} if thorough else {ONCE: "1"}),
    }
    for number in range(rounds.count):
        results = tmp_path / str(number)
        command = [sys.executable, "-m", "kvtest", "run", ring, "-n", "2", "--results", str(results), *options(table)]
        completed = subprocess.run(
            command, env={**environment, ROUND: str(number)}, capture_output=True, text=True, check=False
        )
        assert completed.returncode == 1, completed.stdout + completed.stderr
        rounds.take(number, Results.read(results / "results.jsonl"))
    rounds.conclude()
