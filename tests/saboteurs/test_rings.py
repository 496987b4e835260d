# SPDX-License-Identifier: Apache-2.0
"""The tests of a ring fail when what they test is broken, and every binding requirement is seen to be violated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvtest.conformance import Answer, shipped
from kvtest.report import Results, evidence
from kvtest.runtime.installation import root_is_mount_point
from kvtest.settings import Settings
from tests.saboteurs.plugin import ROUND, TABLE, fault_of
from tests.saboteurs.registry import faults, faults_of, options, ring_of, table_of, tables
from tests.suites import suite_tests

ROOT = Path(__file__).parents[2]


def _table(name: str) -> object:
    chroot = pytest.mark.skipif(not root_is_mount_point(), reason="runc makes no containers in a chroot")
    return pytest.param(name, marks=[chroot] if name in ("runtime", "runtime_pods_in_a_row") else [])


@pytest.mark.parametrize("table", [_table(name) for name in tables()])
def test_every_test_with_a_fault_fails_and_says_so(settings: Settings, tmp_path: Path, table: str) -> None:
    tests = {test: names for test, names in suite_tests().items() if table_of(test) == table}
    (ring,) = {ring_of(test) for test in tests}
    environment = {
        **os.environ,
        "KVTEST_CACHE": str(settings.cache),
        "PYTEST_PLUGINS": f"tests.saboteurs.plugin,tests.saboteurs.rings.{table}",
        "PYTHONPATH": str(ROOT),
        TABLE: table,
    }
    broken: set[str] = set()
    astray: dict[str, str] = {}
    rounds = max(len(faults_of(test, faults(table))) for test in tests)
    for number in range(rounds):
        results = tmp_path / str(number)
        command = [sys.executable, "-m", "kvtest", "run", ring, "-n", "2", "--results", str(results), *options(table)]
        completed = subprocess.run(
            command, env={**environment, ROUND: str(number)}, capture_output=True, text=True, check=False
        )
        assert completed.returncode == 1, completed.stdout + completed.stderr
        ran = Results.read(results / "results.jsonl")

        survivors = [test.id for test in ran.tests if evidence(test).answer is not Answer.BROKEN]
        assert survivors == []

        for test in ran.tests:
            fault = fault_of(test.id, number)
            assert fault is not None
            if fault.message not in test.message:
                astray[test.id] = test.message
            # What else the test checks may well have been kept.
            broken |= set(test.requirements) & set(fault.saboteur.requirements)

    assert astray == {}, "tests that failed for another reason than what was broken"
    named = {name for names in tests.values() for name in names}
    binding = {requirement.id for requirement in shipped() if requirement.id in named and requirement.level.binding}
    assert binding - broken == set(), "nobody has been seen to break them"
