# SPDX-License-Identifier: Apache-2.0
"""Every test of the transport ring fails when what it tests is broken, and says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kvtest.conformance import shipped
from kvtest.report import Outcome, Results
from kvtest.settings import Settings
from tests.saboteurs.plugin import fault_of

ROOT = Path(__file__).parents[2]


def test_every_test_of_the_ring_fails_on_something_broken(settings: Settings, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "KVTEST_CACHE": str(settings.cache),
        "PYTEST_PLUGINS": "tests.saboteurs.plugin",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "kvtest", "run", "transport", "-n", "2", "--results", str(tmp_path)]
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 1, completed.stdout + completed.stderr
    tests = Results.read(tmp_path / "results.jsonl").tests

    survivors = [test.id for test in tests if test.outcome is not Outcome.FAILED]
    assert survivors == []

    astray = {test.id: test.message for test in tests if fault_of(test.id)[1] not in test.message}
    assert astray == {}, "tests that failed for another reason than what was broken"

    violated = {name for test in tests for name in test.properties["requirement"].split(", ")}
    assert violated == {requirement.id for requirement in shipped() if "transport" in requirement.rings}
