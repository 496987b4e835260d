# SPDX-License-Identifier: Apache-2.0
"""The reference runtime keeps the promises that the runtime ring checks, direct and under a real containerd.

``REFERENCE=all`` in the environment runs the whole ring with it; the default is what touches every part of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvtest.report import Outcome, Results
from kvtest.settings import Settings

CHOSEN = (
    "test_each_step_leads_to_its_state",
    "test_the_exit_status_is_told and 42",
    "test_one_shim_serves_the_containers_of_a_pod",
    "test_a_paused_container_does_nothing",
    "test_what_a_container_uses_is_told",
    "test_everything_goes_with_the_shim and SIGKILL and exec",
    "test_an_id_can_be_used_again_at_once",
    "test_other_pods_are_left_as_they_are",
    "test_streams",
    "test_machine and direct and not exec",
)


@pytest.mark.skipif(os.geteuid() != 0, reason="shims need root: run it with sudo")
def test_it_keeps_the_promises_of_the_runtime_ring(settings: Settings, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kvtest", "run", "runtime", "--runtime", "reference", "-n", "2"]
    command += [f"--results={tmp_path}", f"--cache={settings.cache}"]
    if os.environ.get("REFERENCE") != "all":
        command += ["-k", " or ".join(f"({name})" for name in CHOSEN)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    tests = Results.read(tmp_path / "results.jsonl").tests
    passed = [test.id for test in tests if test.outcome is Outcome.PASSED]
    assert len(passed) >= 45
    assert any("[direct" in test for test in passed)
    assert any("[containerd" in test for test in passed)
