# SPDX-License-Identifier: Apache-2.0
"""containerd is killed and started again: what is alive goes on, and what is dead is removed."""

from __future__ import annotations

import signal

import pytest

from kvtest import Pod, Pods, RuntimeUnderTest, Status, requirement
from kvtest.census import Ledger
from kvtest.errors import RPCError
from kvtest.rpc.status import Code

PATIENCE = 10.0
FOREVER = ["sleep", "1000"]
STATES = {"created": Status.CREATED, "running": Status.RUNNING, "paused": Status.PAUSED, "ended": Status.STOPPED}

pytestmark = [
    pytest.mark.capability("runtime", "containerd"),
    pytest.mark.parametrize("driver", ["containerd"], indirect=True),
]


@requirement("RUNTIME-RECOVER-001")
def test_a_container_goes_on_without_containerd(pod: Pod, runtime: RuntimeUnderTest) -> None:
    container = pod.run(["cat"], stdin=True)
    shim = pod.shim.pid
    container.stdin.write(b"together\n", PATIENCE)  # a shim may open the streams after its answer
    assert container.stdout.read_until(b"together\n", PATIENCE) == b"together\n"
    runtime.kill_containerd()
    container.stdin.write(b"alone\n", PATIENCE)
    assert container.stdout.read_until(b"alone\n", PATIENCE) == b"together\nalone\n"
    runtime.start_containerd_again()
    assert container.state() is Status.RUNNING
    assert container.output_of(["echo", "here"]) == b"here\n"
    container.stdin.write(b"again\n", PATIENCE)
    assert container.stdout.read_until(b"again\n", PATIENCE) == b"together\nalone\nagain\n"
    assert pod.shim.pid == shim
    container.kill()
    assert container.wait(PATIENCE).status == 128 + signal.SIGKILL
    pod.events.expect("TaskExit", container.id, status=128 + signal.SIGKILL, within=PATIENCE)
    container.delete()


@requirement("RUNTIME-RECOVER-001")
@pytest.mark.parametrize(
    "phase",
    ["created", "running", pytest.param("paused", marks=pytest.mark.capability("runtime-pause")), "ended"],
)
def test_a_container_is_found_in_its_state(pod: Pod, runtime: RuntimeUnderTest, phase: str) -> None:
    container = pod.create(["true"] if phase == "ended" else FOREVER)
    if phase != "created":
        container.start()
    if phase == "paused":
        container.pause()
    if phase == "ended":
        container.wait(PATIENCE)
    runtime.kill_containerd()
    runtime.start_containerd_again()
    assert container.state() is STATES[phase]


@requirement("RUNTIME-RECOVER-001")
def test_an_exit_status_is_kept_for_containerd(pod: Pod, runtime: RuntimeUnderTest) -> None:
    container = pod.run(["sh", "-c", "read line; echo $line; read line; echo $line; exit 7"], stdin=True)
    container.stdin.write(b"ready\n", PATIENCE)  # a shim may open the streams after its answer
    assert container.stdout.read_until(b"ready\n", PATIENCE) == b"ready\n"
    runtime.kill_containerd()
    container.stdin.write(b"over\n", PATIENCE)
    assert container.stdout.read_all(PATIENCE) == b"ready\nover\n"
    runtime.start_containerd_again()
    assert container.wait(PATIENCE).status == 7
    assert container.delete().status == 7


@requirement("RUNTIME-RECOVER-002")
@pytest.mark.parametrize("phase", ["created", "running"])
def test_what_has_died_meanwhile_is_removed(pods: Pods, census: Ledger, runtime: RuntimeUnderTest, phase: str) -> None:
    dead, alive = pods.start(), pods.start()
    container, survivor = dead.create(FOREVER), alive.run(FOREVER)
    if phase == "running":
        container.start()
    runtime.kill_containerd()
    dead.shim.kill()
    dead.shim.wait(PATIENCE)
    runtime.start_containerd_again()
    with pytest.raises(RPCError) as caught:
        container.state()
    assert caught.value.code == Code.NOT_FOUND
    assert survivor.output_of(["echo", "here"]) == b"here\n"
    survivor.kill()
    survivor.wait(PATIENCE)
    survivor.delete()
    dead.forget_lost(container)
    census.assert_clean(within=dead.profile.cleanup_bound)
    again = dead.create(["sh", "-c", "exit 8"], name=container.id)
    again.start()
    assert again.wait(PATIENCE).status == 8
    again.delete()


@requirement("RUNTIME-RECOVER-003")
def test_the_end_is_published_that_came_meanwhile(pod: Pod, runtime: RuntimeUnderTest) -> None:
    container = pod.run(FOREVER)
    runtime.kill_containerd()
    pod.shim.kill()
    pod.shim.wait(PATIENCE)
    runtime.start_containerd_again()
    pod.forget_lost(container)
    pod.events.expect("TaskExit", container.id, within=pod.profile.cleanup_bound)
