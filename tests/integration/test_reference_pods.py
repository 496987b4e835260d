# SPDX-License-Identifier: Apache-2.0
"""What a pod of the reference runtime has room for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvtest import Pod
from kvtest.census import Ledger, Marks
from kvtest.errors import RPCError
from kvtest.harness import GuestFactory
from kvtest.runtime import Pods, RuntimeUnderTest
from kvtest.runtime.installation import find
from kvtest.runtime.reference.machine import DISKS
from kvtest.runtime.reference.preparation import prepared
from kvtest.settings import Settings
from kvtest.vm.qmp import start_monitors
from tests.integration.test_runtime import needs_root

PATIENCE = 60.0


@pytest.fixture
def pod(settings: Settings, factory: GuestFactory) -> Iterator[Pod]:
    start_monitors()
    with prepared(find(settings), factory) as installation:
        runtime = RuntimeUnderTest(installation, Ledger(Marks()), settings.run_directory)
        pods = Pods(runtime)
        try:
            yield pods.start(within=PATIENCE)
        finally:
            pods.end()
            pods.release()
            runtime.close()


@needs_root
def test_there_is_room_for_another_container_when_one_is_gone(pod: Pod) -> None:
    running = [pod.run(["sleep", "1000"], within=PATIENCE) for _ in range(DISKS)]
    with pytest.raises(RPCError, match=f"room for {DISKS} containers"):
        pod.create(["true"], within=PATIENCE)
    first = running[0]  # this runtime has no sandbox: a pod goes on without it too
    first.kill()
    first.wait(PATIENCE)
    first.delete()
    pod.delete_again(first.id)  # as containerd 1.6 does after each deletion
    # Those that were made after it had a copy of its mounts, and they go on.
    assert running[1].output_of(["echo", "here"], PATIENCE) == b"here\n"
    assert pod.run(["true"], within=PATIENCE).wait(PATIENCE).status == 0


@needs_root
def test_what_was_never_started_can_go(pod: Pod) -> None:
    container = pod.run(["sleep", "1000"], within=PATIENCE)
    process = container.exec(["true"], name="again", start=False)
    waiting = process.waiting(PATIENCE)
    process.delete()
    assert waiting.result(PATIENCE).status == 137
    assert container.exec(["true"], name="again").wait(PATIENCE).status == 0
    created = pod.create(["true"], within=PATIENCE)
    waiting = created.waiting(PATIENCE)
    created.delete()
    assert waiting.result(PATIENCE).status == 137
    left = container.exec(["true"], start=False)
    waiting = left.waiting(PATIENCE)
    container.kill()
    assert waiting.result(PATIENCE).status == 137
    with pytest.raises(RPCError, match="is stopped"):
        left.start()


@needs_root
def test_a_process_whose_streams_cannot_be_opened_does_not_run(pod: Pod) -> None:
    container = pod.run(["sleep", "1000"], within=PATIENCE)
    process = container.exec(["sleep", "777"], start=False)
    fifo = Path(process.streams.told["stdout"])
    fifo.unlink()
    with pytest.raises(RPCError, match=f"could not open {fifo}: No such file or directory"):
        process.start()
    assert b"777" not in container.output_of(["ps"])
    assert process.wait(PATIENCE).status == 127


@needs_root
@pytest.mark.thorough
def test_a_hundred_pods_leave_nothing(settings: Settings, tmp_path: Path) -> None:
    """What ten of them, as many as a run makes of machines, would not show: some kilobytes for each."""
    command = [sys.executable, "-m", "kvtest", "run", "suites/runtime/test_pods_in_a_row.py", "--pods-in-a-row", "100"]
    command += ["-n", "2", f"--results={tmp_path}", f"--cache={settings.cache}"]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "2 passed" in completed.stdout
