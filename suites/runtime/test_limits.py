# SPDX-License-Identifier: Apache-2.0
"""What a container may use: limits that are changed, and what is told of one that comes to its limit."""

from __future__ import annotations

import signal

import pytest

from kvtest import Pod, requirement
from kvtest.runtime.spec import memory_limit

PATIENCE = 10.0

pytestmark = pytest.mark.capability("runtime")


@requirement("RUNTIME-UPDATE-001")
@pytest.mark.capability("runtime-update")
def test_a_limit_can_be_changed_while_a_container_runs(shared_pod: Pod) -> None:
    container = shared_pod.run(["sh", "-c", "read line; for i in 1 2 3; do sleep 1000 & done; echo all"], stdin=True)
    container.update({"pids": {"limit": 2}})
    container.stdin.write(b"\n", PATIENCE)
    assert container.wait(PATIENCE).status != 0
    assert container.stdout.read_all(PATIENCE) == b""
    assert b"fork" in container.stderr.read_all(PATIENCE)


@requirement("RUNTIME-OOM-001")
@pytest.mark.capability("runtime-oom")
def test_a_container_that_runs_out_of_memory_is_told_of(shared_pod: Pod) -> None:
    # Not before the start has been answered: a shim may begin to watch only then.
    hog = ["sh", "-c", "read line; exec dd if=/dev/zero of=/dev/null bs=64M"]
    container = shared_pod.run(hog, stdin=True, resources=memory_limit(32 << 20))
    container.stdin.write(b"\n", PATIENCE)
    assert container.wait(PATIENCE).status == 128 + signal.SIGKILL
    shared_pod.events.expect("TaskOOM", container.id, within=shared_pod.profile.detection_bound)
