# SPDX-License-Identifier: Apache-2.0
"""The agent ring against an agent that runs already, by its address."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from kvtest.harness import Guest
from kvtest.report import Outcome, Results
from kvtest.settings import Settings


def kvtest(settings: Settings, results: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kvtest", "run", "-n", "0", "--results", str(results), *arguments],
        env={**os.environ, "KVTEST_CACHE": str(settings.cache)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_running_agent_is_tested_as_it_is(clone: Callable[..., Guest], settings: Settings, tmp_path: Path) -> None:
    guest = clone(image="agent", vsock=True, serial_ports=["agent.channel.0"])
    address = f"hvsock://{guest.vm.hybrid_path}:1024"
    chosen = ["suites/agent/test_life_cycle.py", "-k", "lives_and_goes or healthy or copied"]
    results = tmp_path / "results"
    completed = kvtest(settings, results, *chosen, "suites/agent/test_resources.py", "--agent-address", address)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    tests = {test.id.split("::")[1]: test for test in Results.read(results / "results.jsonl").tests}
    assert not [name for name in tests if "virtio-serial" in name]
    outcomes = {name.partition("[")[0]: test.outcome for name, test in tests.items()}
    assert outcomes == {
        "test_a_healthy_agent_says_that_it_serves": Outcome.PASSED,
        "test_a_container_lives_and_goes": Outcome.PASSED,
        "test_a_copied_file_is_whole": Outcome.SKIPPED,
        "test_a_file_is_copied_nowhere_else": Outcome.SKIPPED,
    }
    skipped = next(test for name, test in tests.items() if "copied" in name)
    assert f"the agent at {address} runs in one of its own" in skipped.message


def test_an_address_that_is_none_is_said_before_anything_runs(settings: Settings, tmp_path: Path) -> None:
    completed = kvtest(settings, tmp_path, "agent", "--agent-address", "vsok://3:1024")
    assert completed.returncode == 2
    assert "the agent's address 'vsok://3:1024' has an unknown scheme" in completed.stderr
    assert "did you mean 'vsock'?" in completed.stderr


def test_an_agent_for_another_machine_is_said_before_anything_runs(settings: Settings, tmp_path: Path) -> None:
    agent = tmp_path / "kata-agent"
    agent.write_bytes(b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\xb7\0" + bytes(60))
    agent.chmod(0o755)
    completed = kvtest(settings, tmp_path / "results", "agent", "--agent", str(agent))
    assert completed.returncode == 2
    assert f"the agent {agent} is for aarch64, guests are x86-64" in completed.stderr.replace("\n", " ")


def test_an_address_where_nobody_is_is_said_before_anything_runs(settings: Settings, tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/agent.sock"
    completed = kvtest(settings, tmp_path / "results", "agent", "-k", "lives_and_goes", "--agent-address", address)
    assert completed.returncode == 2
    assert f"the agent at {address} does not answer: waited " in completed.stderr.replace("\n", " ")
    assert "No such file or directory" in completed.stderr


def test_an_address_and_a_program_exclude_each_other(settings: Settings, tmp_path: Path) -> None:
    both = ("--agent", "/bin/true", "--agent-address", "unix:///x")
    completed = kvtest(settings, tmp_path / "results", "agent", "-n", "2", "-k", "lives_and_goes", *both)
    assert completed.returncode == 2
    assert "--agent-address and --agent exclude each other" in completed.stderr
    assert "INTERNALERROR" not in completed.stdout
