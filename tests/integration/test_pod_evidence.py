# SPDX-License-Identifier: Apache-2.0
"""What is kept of the pods of a test that fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kvtest.settings import Settings
from tests.integration.test_runtime import needs_root

SUITE = """
import pytest

def test_that_passes(pod):
    pod.run(["true"])

@pytest.mark.parametrize("driver", ["direct", "containerd"], indirect=True)
def test_that_fails(pod):
    assert pod.run(["sh", "-c", "exit 3"]).wait(10).status == 0

def test_that_shares(shared_pod):
    assert shared_pod.run(["sh", "-c", "exit 3"]).wait(10).status == 0
"""


@needs_root
def test_events_and_logs_of_pods_are_kept(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(SUITE)
    command = [sys.executable, "-m", "kvtest", "run", "test_mine.py", "--runtime", "runc", "-n", "0"]
    command += [f"--results={tmp_path}/results", f"--cache={settings.cache}"]
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert completed.returncode == 1, completed.stdout + completed.stderr
    artifacts = tmp_path / "results/artifacts"
    assert not list(artifacts.glob("*passes*/pods"))
    for name in ("fails", "shares"):
        (events,) = artifacts.glob(f"*{name}-direct/pods/*/events.txt")
        assert "TaskStart" in events.read_text()
        (log,) = artifacts.glob(f"*{name}-containerd/pods/*/*containerd.log")
        assert "containerd successfully booted" in log.read_text()
