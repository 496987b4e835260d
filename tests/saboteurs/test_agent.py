# SPDX-License-Identifier: Apache-2.0
"""Every MUST of the agent ring has an agent that breaks it, and a test that fails on that agent and says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kvtest.conformance import Level, Ring, shipped
from kvtest.report import Outcome, Results
from kvtest.settings import Settings
from tests.saboteurs.agent_plugin import FAULTS, fault_of, identifier_of

ROOT = Path(__file__).parents[2]


def test_every_promise_is_broken_by_somebody_and_that_is_seen(settings: Settings, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "KVTEST_CACHE": str(settings.cache),
        "PYTEST_PLUGINS": "tests.saboteurs.agent_plugin",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "kvtest", "run", "-n", "2", "--results", str(tmp_path)]
    command += ["--agent", str(Path(__file__).with_name("agent_in_guest.py")), "--request-timeout", "5"]
    command += [identifier_of(name) for name, _, _ in FAULTS]
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 1, completed.stdout + completed.stderr
    tests = Results.read(tmp_path / "results.jsonl").tests
    assert len(tests) == len(FAULTS)

    survivors = [test.id for test in tests if test.outcome is not Outcome.FAILED]
    assert survivors == []

    astray = {test.id: test.message for test in tests if fault_of(test.id)[1] not in test.message}
    assert astray == {}, "tests that failed for another reason than what was broken"

    violated = {name for test in tests for name in test.properties["requirement"].split(", ")}
    musts = {each.id for each in shipped() if Ring.AGENT in each.rings and each.level is Level.MUST}
    assert violated == musts
