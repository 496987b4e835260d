# SPDX-License-Identifier: Apache-2.0
"""Every test of a ring fails when what it tests is broken, and says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvtest.conformance import Status, shipped
from kvtest.report import Outcome, Results, verdicts
from kvtest.settings import Settings
from tests.saboteurs.plugin import ROUND, fault_of
from tests.saboteurs.registry import faults, faults_of, ring_of, rings
from tests.suites import suite_tests

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("ring", rings())
def test_every_test_fails_on_something_broken(settings: Settings, tmp_path: Path, ring: str) -> None:
    environment = {
        **os.environ,
        "KVTEST_CACHE": str(settings.cache),
        "PYTEST_PLUGINS": "tests.saboteurs.plugin",
        "PYTHONPATH": str(ROOT),
    }
    violated: set[str] = set()
    rounds = max(len(faults_of(test, faults(ring))) for test in suite_tests() if ring_of(test) == ring)
    for number in range(rounds):
        results = tmp_path / str(number)
        command = [sys.executable, "-m", "kvtest", "run", ring, "-n", "2", "--results", str(results)]
        completed = subprocess.run(
            command, env={**environment, ROUND: str(number)}, capture_output=True, text=True, check=False
        )
        assert completed.returncode == 1, completed.stdout + completed.stderr
        ran = Results.read(results / "results.jsonl")

        survivors = [test.id for test in ran.tests if test.outcome is not Outcome.FAILED]
        assert survivors == []

        expected = {test.id: fault_of(test.id, number) for test in ran.tests}
        astray = {
            test.id: test.message
            for test in ran.tests
            if (fault := expected[test.id]) is None or fault.message not in test.message
        }
        assert astray == {}, "tests that failed for another reason than what was broken"
        violated |= {verdict.requirement.id for verdict in verdicts(ran) if verdict.status is Status.VIOLATED}

    assert violated == {requirement.id for requirement in shipped() if ring in requirement.rings}
