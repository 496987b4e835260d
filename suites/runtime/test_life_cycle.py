# SPDX-License-Identifier: Apache-2.0
"""From creation to deletion, step by step."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kvtest import Driver, Pod, Pods, Process, Status, requirement
from kvtest.census import Ledger
from kvtest.errors import DeadlineExceededError, RPCError, StateError
from kvtest.runtime import ExitStatus
from kvtest.runtime.neighbours import undisturbed
from kvtest.runtime.tasks import ShimTasks

PATIENCE = 10.0
FOREVER = ["sleep", "1000"]
SAYS = ["sh", "-c", "echo said; exit 7"]
CLOCK = timedelta(seconds=1)  # that the machine's clock may be set by meanwhile

pytestmark = pytest.mark.capability("runtime")


@requirement("RUNTIME-START-001")
def test_a_shim_tells_its_address_and_answers_there(pods: Pods) -> None:
    pod = pods.start()
    pod.run(FOREVER)
    command = open(f"/proc/{pod.shim.pid}/cmdline", "rb").read()  # noqa: SIM115
    assert pod.id.encode() in command


def assert_told(process: Process, status: Status) -> None:
    """See that a process that has not ended is told to be in a state, with its process ID and without an end."""
    snapshot = process.snapshot()
    assert snapshot.status is status
    assert (snapshot.pid, snapshot.exit) == (process.pid, None)


@requirement("RUNTIME-LIFE-001")
def test_each_step_leads_to_its_state(shared_pod: Pod, driver: Driver) -> None:
    before = datetime.now(UTC)
    container = shared_pod.create(FOREVER)
    assert_told(container, Status.CREATED)
    container.start()
    process = container.exec(FOREVER)
    for running in (container, process):
        assert_told(running, Status.RUNNING)
    if driver is Driver.DIRECT:  # containerd tells neither
        assert Path(container.snapshot().bundle) == shared_pod.bundle(container.id)
        tasks = shared_pod.tasks(container.id)
        assert isinstance(tasks, ShimTasks)
        assert tasks.connect(container.id, PATIENCE).task_pid == container.pid
    for ending in (process, container):
        ending.kill()
        waited = ending.wait(PATIENCE)
        assert waited.status == 128 + signal.SIGKILL
        assert waited.at is not None
        assert before - CLOCK <= waited.at <= datetime.now(UTC) + CLOCK
        snapshot = ending.snapshot()
        assert (snapshot.status, snapshot.exit) == (Status.STOPPED, waited)
        deleted = ending.delete()
        assert (deleted, deleted.pid) == (waited, ending.pid)


@requirement("RUNTIME-LIFE-006")
@pytest.mark.capability("runtime-group")
def test_nothing_runs_before_its_start(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    waiting: list[Process] = [container.exec(SAYS, start=False), shared_pod.create(SAYS)]
    assert container.output_of(["echo", "here"]) == b"here\n"  # they would have had as much time
    for process in waiting:
        with pytest.raises(DeadlineExceededError):
            process.stdout.read_until(b"said", 0)
        assert process.state() is Status.CREATED
    for process in waiting:
        process.start()
        assert process.stdout.read_all(PATIENCE) == b"said\n"
        assert process.wait(PATIENCE).status == 7


def elsewhere(specification: dict[str, Any]) -> None:
    """Give a container a host name."""
    specification["hostname"] = "elsewhere"


@requirement("RUNTIME-LIFE-002", "RUNTIME-CONFIG-004")
def test_a_shim_ends_with_its_last_container(pod: Pod) -> None:
    """Which is also its first, and gives the pod its host name: later ones may have that."""
    container = pod.create(["hostname"], configure=elsewhere)
    container.start()
    assert container.stdout.read_all(PATIENCE) == b"elsewhere\n"
    container.wait(PATIENCE)
    container.delete()
    assert pod.shim.wait(PATIENCE) in {0, None}  # under containerd, only that knows


@requirement("RUNTIME-LIFE-002")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_a_shim_that_never_had_a_container_ends(pod: Pod) -> None:
    pod.end(PATIENCE)
    assert pod.shim.wait(PATIENCE) == 0


@requirement("RUNTIME-LIFE-005")
@pytest.mark.parametrize("phase", ["created", "ended", "killed"])
def test_nothing_stays_after_a_container_was_deleted(pod: Pod, census: Ledger, phase: str) -> None:
    container = pod.create(["true"] if phase == "ended" else FOREVER)
    if phase != "created":
        container.start()
    if phase != "ended":
        container.kill()
    container.wait(PATIENCE)
    container.delete()
    pod.shim.wait(PATIENCE)
    census.assert_clean(within=pod.profile.cleanup_bound)


@requirement("RUNTIME-EXIT-001")
@pytest.mark.parametrize("status", [0, 1, 42, 126, 255])
def test_the_exit_status_is_told(shared_pod: Pod, status: int) -> None:
    container = shared_pod.run(["sh", "-c", f"exit {status}"])
    waited = container.wait(PATIENCE)
    assert waited.status == status
    assert container.delete() == waited


@requirement("RUNTIME-EXIT-001")
def test_the_exit_status_of_a_process_beside_the_first_is_told(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    for status in (0, 3, 255):
        process = container.exec(["sh", "-c", f"exit {status}"])
        waited = process.wait(PATIENCE)
        assert waited.status == status
        assert process.delete() == waited


@requirement("RUNTIME-EXIT-002")
def test_a_signal_is_told_by_the_exit_status(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1):
        # Not the first one, which the kernel protects from signals that it does not handle (pid_namespaces(7)).
        process = container.exec(FOREVER)
        process.kill(number)
        assert process.wait(PATIENCE).status == 128 + number


@requirement("RUNTIME-EXIT-003")
def test_everybody_who_waits_gets_the_exit_status(shared_pod: Pod) -> None:
    container = shared_pod.run(["sh", "-c", "read line; exit 7"], stdin=True)
    waiting = [container.waiting(PATIENCE) for _ in range(4)]
    container.stdin.write(b"\n", PATIENCE)
    assert [pending.result(PATIENCE).status for pending in waiting] == [7] * 4
    assert [container.wait(PATIENCE).status for _ in range(2)] == [7] * 2


@requirement("RUNTIME-EXIT-004")
def test_processes_end_with_their_container(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    process = container.exec(FOREVER)
    waiting = process.waiting(PATIENCE)
    container.kill()
    waited, status = waiting.result(PATIENCE), 128 + signal.SIGKILL
    assert waited.status == status
    event = shared_pod.events.expect("TaskExit", container.id, process=process.name, status=status, within=PATIENCE)
    assert ExitStatus.of(event.message) == waited
    snapshot = process.snapshot()
    assert (snapshot.status, snapshot.exit) == (Status.STOPPED, waited)
    assert process.delete() == waited
    assert container.wait(PATIENCE).status == status


@requirement("RUNTIME-KILL-001")
def test_a_signal_can_be_handled(shared_pod: Pod) -> None:
    container = shared_pod.run(["sh", "-c", "trap 'echo handled; exit 5' TERM; echo ready; while :; do sleep 1; done"])
    container.stdout.read_until(b"ready\n", PATIENCE)
    container.kill(signal.SIGTERM)
    assert container.wait(PATIENCE).status == 5
    assert container.stdout.read_all(PATIENCE) == b"ready\nhandled\n"


@requirement("RUNTIME-KILL-002")
def test_a_signal_for_all_reaches_each(shared_pod: Pod) -> None:
    idle = "while :; do sleep 1000 >/dev/null 2>&1 & wait $!; done"
    script = ["sh", "-c", f"trap 'echo told' USR1; trap 'exit 9' USR2; echo ready; {idle}"]
    container = shared_pod.run(script)
    processes = [*(container.exec(script) for _ in range(2)), container]
    for process in processes:
        process.stdout.read_until(b"ready\n", PATIENCE)
    container.kill(signal.SIGUSR1, everybody=True)
    for process in processes:
        process.kill(signal.SIGUSR2)
        assert process.stdout.read_all(PATIENCE) == b"ready\ntold\n"
        assert process.wait(PATIENCE).status == 9


@requirement("RUNTIME-PAUSE-001")
@pytest.mark.capability("runtime-pause")
def test_a_paused_container_does_nothing(shared_pod: Pod) -> None:
    container = shared_pod.run(["cat"], stdin=True)
    processes = [container, container.exec(["cat"], stdin=True)]
    container.pause()
    assert container.state() is Status.PAUSED
    for process in processes:
        process.stdin.write(b"hello\n", PATIENCE)
    for process in processes:
        with pytest.raises(DeadlineExceededError):
            process.stdout.read_until(b"hello", 0.3)
    container.resume()
    assert container.state() is Status.RUNNING
    for process in processes:
        assert process.stdout.read_until(b"hello\n", PATIENCE) == b"hello\n"


@requirement("RUNTIME-PAUSE-002")
@pytest.mark.capability("runtime-pause")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_a_pause_does_not_undo_an_end(shared_pod: Pod) -> None:
    """Neither one that comes at the same time, whichever is first, nor one that comes after it."""
    container = shared_pod.run(FOREVER)
    with ThreadPoolExecutor(1) as pool:
        pausing = pool.submit(container.pause)
        container.kill()
        with contextlib.suppress(RPCError):  # the end was first
            pausing.result()
    with contextlib.suppress(RPCError):  # some runtimes end what is paused, others when it goes on
        container.resume()
    assert container.wait(PATIENCE).status == 128 + signal.SIGKILL
    with pytest.raises(RPCError):
        container.pause()
    assert container.state() is Status.STOPPED


@requirement("RUNTIME-PIDS-001")
@pytest.mark.capability("runtime-pids")
def test_the_processes_of_a_container_are_told(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    process = container.exec(FOREVER)
    assert set(container.pids()) == {container.pid, process.pid}
    namespaces = {os.readlink(f"/proc/{pid}/ns/pid") for pid in container.pids()}
    assert len(namespaces) == 1
    assert os.readlink("/proc/self/ns/pid") not in namespaces


@requirement("RUNTIME-GROUP-002")
@pytest.mark.capability("runtime-group")
def test_a_pod_goes_on_without_a_container_beside_its_first(shared_pod: Pod) -> None:
    with undisturbed(shared_pod):
        shim = shared_pod.shim
        container = shared_pod.run(["sh", "-c", "echo second; exit 9"])
        assert shared_pod.shim.pid == shim.pid, "the container has a shim of its own"
        assert container.wait(PATIENCE).status == 9
        assert container.stdout.read_all(PATIENCE) == b"second\n"
        container.delete()
        with contextlib.suppress(StateError):  # containerd 1.6 does so by itself after each deletion
            assert shared_pod.delete_again(container.id).status == shared_pod.profile.status_of_delete
        assert not shim.ended, "the shim has ended with one of its containers"
        assert shared_pod.run(["sh", "-c", "exit 8"]).wait(PATIENCE).status == 8
    assert shared_pod.shim.pid == shim.pid
