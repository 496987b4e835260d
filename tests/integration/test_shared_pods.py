# SPDX-License-Identifier: Apache-2.0
"""Pods that tests share: each test leaves the first container alone, and a pod that was harmed is nobody's any more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from kvtest.report import Outcome, Results, TestResult
from kvtest.settings import Settings
from tests.integration.test_runtime import needs_root

SUITE = """
import pytest
from kvtest import Pod, RuntimeUnderTest, requirement

pytestmark = [pytest.mark.capability("runtime"), requirement("RUNTIME-LIFE-001")]


@pytest.fixture
def pod(shared_pod: Pod) -> Pod:
    print(f"{shared_pod.id} has {len(shared_pod.containers)}")
    return shared_pod


def test_that_leaves_containers(pod: Pod) -> None:
    pod.run(["sleep", "1000"]).exec(["sleep", "1000"])
    pod.run(["cat"], stdin=True).pause()
    pod.create(["true"])


def test_that_finds_nothing_of_them(pod: Pod) -> None:
    assert pod.run(["sh", "-c", "exit 3"]).wait(10).status == 3


def test_that_ends_what_was_to_stay(pod: Pod) -> None:
    pod.containers[0].kill()
    pod.containers[0].wait(10)


def test_that_kills_the_shim(pod: Pod) -> None:
    pod.shim.kill()
    pod.shim.wait(10)


def test_after_them(pod: Pod) -> None:
    pod.run(["true"])


@pytest.mark.parametrize("driver", ["containerd"], indirect=True)
def test_that_kills_containerd(runtime: RuntimeUnderTest, driver: object) -> None:
    runtime.kill_containerd()


@pytest.mark.parametrize("driver", ["containerd"], indirect=True)
def test_after_containerd(pod: Pod) -> None:
    pod.run(["true"])
"""


def _run(settings: Settings, directory: Path, *words: str) -> Mapping[str, TestResult]:
    (directory / "test_mine.py").write_text(SUITE)
    command = [sys.executable, "-m", "kvtest", "run", "test_mine.py", "--runtime", "runc", "-n", "0", *words]
    command += [f"--results={directory}/results", f"--cache={settings.cache}"]
    completed = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    tests = Results.read(directory / "results/results.jsonl").tests
    assert len(tests) == 12, completed.stdout + completed.stderr
    return {test.id.partition("::test_")[2]: test for test in tests}


def _pod(test: TestResult) -> str:
    """Return which pod a test has had."""
    pod, _, containers = test.stdout.strip().partition(" has ")
    assert containers == "1", "one container was to be there"
    return pod


@needs_root
@pytest.mark.parametrize("driver", ["direct", "containerd"])
def test_a_pod_serves_until_it_is_harmed(settings: Settings, tmp_path: Path, driver: str) -> None:
    tests = _run(settings, tmp_path)
    first = _pod(tests[f"that_leaves_containers[{driver}]"])
    assert _pod(tests[f"that_finds_nothing_of_them[{driver}]"]) == first
    assert _pod(tests[f"that_ends_what_was_to_stay[{driver}]"]) == first
    second = _pod(tests[f"that_kills_the_shim[{driver}]"])
    last = _pod(tests[f"after_them[{driver}]"])
    assert len({first, second, last}) == 3
    failed = {name for name, test in tests.items() if test.outcome is not Outcome.PASSED}
    harmful = {
        f"that_{what}[{by}]" for what in ("ends_what_was_to_stay", "kills_the_shim") for by in ("direct", "containerd")
    }
    assert failed == harmful
    assert "which was to stay" in tests[f"that_ends_what_was_to_stay[{driver}]"].message
    assert _pod(tests["after_containerd[containerd]"]) != _pod(tests["after_them[containerd]"])


@needs_root
def test_pods_of_their_own_on_request(settings: Settings, tmp_path: Path) -> None:
    tests = _run(settings, tmp_path, "--pods", "own")
    pods = [test.stdout.partition(" has ") for test in tests.values() if " has " in test.stdout]
    assert len({pod for pod, _, _ in pods}) == len(pods) == 11
    assert {containers.strip() for _, _, containers in pods} == {"0"}
