# SPDX-License-Identifier: Apache-2.0
"""What happens when the virtual machine of a pod dies or hangs, in every phase; nobody calls for its removal."""

from __future__ import annotations

import os
import select
import signal
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest

from kvtest import Container, Pod, Pods, requirement
from kvtest.census import Ledger
from kvtest.deadline import Deadline
from kvtest.errors import RPCError
from kvtest.runtime.losses import (
    assert_ends_are_published,
    assert_statuses,
    everybody_learns_of_the_loss,
    told_or_lost,
)
from kvtest.runtime.neighbours import undisturbed
from kvtest.runtime.phases import ALIVE, FOREVER, PATIENCE, live_again, reach, reach_all
from kvtest.runtime.under_way import every_call_ends

BOTH = ("machine first", "shim first")
ONCE = 1.0  # seconds in which a process that answers would have done so
LOOK = 0.02  # seconds until it is looked again whether there is a machine
WRITERS, MUCH = 8, 1 << 16  # bytes; from all of them more than a connection to an agent holds

pytestmark = [pytest.mark.capability("runtime"), pytest.mark.capability("runtime-vm")]

direct = pytest.mark.parametrize("driver", ["direct"], indirect=True)


def end_machine(pod: Pod, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to the one process of a pod's virtual machine."""
    (pid,) = pod.machine
    os.kill(pid, number)


@requirement("RUNTIME-VM-001")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_everybody_learns_that_a_machine_has_ended(pods: Pods, number: signal.Signals) -> None:
    """Whatever phase of their lives the containers are in."""
    started = reach_all(pods, ALIVE)
    with everybody_learns_of_the_loss(started):
        for pod in started:
            end_machine(pod, number)


@requirement("RUNTIME-VM-001")
def test_an_exit_status_from_before_is_kept(pod: Pod) -> None:
    container = pod.run(FOREVER)
    ended = pod.run(["sh", "-c", "exit 9"])
    assert ended.wait(PATIENCE).status == 9
    end_machine(pod)
    assert container.wait(pod.profile.detection_bound).status == pod.profile.status_of_lost_vm
    assert ended.wait(PATIENCE).status == 9
    assert ended.delete().status == 9
    pod.events.expect("TaskDelete", ended.id, within=PATIENCE)  # after whatever else is told of it
    assert len(pod.events.of(ended.id, "TaskExit", "")) == 1


@requirement("RUNTIME-VM-002")
def test_a_machine_that_hangs_is_noticed(pods: Pods, census: Ledger) -> None:
    """Where nothing happens, where output is under way, and where a shim has more input than it can get rid of.

    Its shim may end with it.
    """
    started = pods.start_many(3)
    containers = [reach(pod, phase) for pod, phase in zip(started, ("running", "exec", "running"), strict=True)]
    writers = [containers[-1].exec(FOREVER, stdin=True) for _ in range(WRITERS)]
    waiting = [container.waiting(PATIENCE + started[0].profile.detection_bound) for container in containers]
    for pod in started:
        end_machine(pod, signal.SIGSTOP)
    for writer in writers:
        writer.stdin.write(bytes(MUCH), PATIENCE)
    within, status = Deadline(started[0].profile.detection_bound), started[0].profile.status_of_lost_vm
    for pod, container, pending in zip(started, containers, waiting, strict=True):
        ends = told_or_lost(pod, {container.id: pending}, within)
        if ends is None:
            assert_ends_are_published(pod, [container], Deadline(pod.profile.cleanup_bound))
        else:
            assert_statuses(ends, status)
            pod.events.expect("TaskExit", container.id, status=status, within=within)
            assert container.delete().status == status
    for pod in started:
        pod.end(PATIENCE)
    census.assert_clean(within=started[0].profile.cleanup_bound)


@requirement("RUNTIME-VM-003")
def test_a_machine_that_stands_still_for_a_while_goes_on(pod: Pod) -> None:
    container = pod.run(["cat"], stdin=True)
    waiting = container.waiting(PATIENCE)
    end_machine(pod, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(container.output_of, ["echo", "here"], PATIENCE)
        assert not wait([asked], ONCE).done, "a machine that stands still has answered"
        end_machine(pod, signal.SIGCONT)
        assert asked.result(PATIENCE) == b"here\n"
    container.stdin.write(b"alive\n", PATIENCE)
    assert container.stdout.read_until(b"\n", PATIENCE) == b"alive\n"
    container.kill()
    assert waiting.result(PATIENCE).status == 137


@requirement("RUNTIME-VM-001", "RUNTIME-VM-016")
def test_calls_under_way_end_with_the_machine(pod: Pod) -> None:
    with every_call_ends(pod) as calls:
        end_machine(pod, signal.SIGSTOP)  # so that they are under way when it dies
        calls.begin()
        assert not wait(calls.futures, ONCE, FIRST_COMPLETED).done, "a machine that stands still has answered"
        end_machine(pod)


@requirement("RUNTIME-VM-004")
def test_nothing_of_a_lost_machine_stays(pod: Pod, census: Ledger) -> None:
    containers = [pod.run(FOREVER) for _ in range(3)]
    end_machine(pod)
    status = pod.profile.status_of_lost_vm
    for container in containers:
        assert container.wait(pod.profile.detection_bound).status == status
        assert container.delete().status == status
    pod.end(PATIENCE)
    census.assert_clean(within=pod.profile.cleanup_bound)


@requirement("RUNTIME-VM-005")
@pytest.mark.parametrize("order", BOTH)
def test_everything_goes_when_machine_and_shim_die_together(pods: Pods, census: Ledger, order: str) -> None:
    started = reach_all(pods, ("created", "running", "exec"))
    for pod in started:
        (machine,) = pod.machine
        pidfd = os.pidfd_open(machine)
        try:
            if order == "shim first":
                pod.shim.kill()
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            pod.shim.kill()
        finally:
            os.close(pidfd)
    census.assert_clean(within=started[0].profile.cleanup_bound)


@requirement("RUNTIME-VM-006")
def test_the_id_of_a_lost_container_can_be_used_again(pod: Pod) -> None:
    """After a machine was lost on the way to it, and one while it ran; then one is lost after its end."""
    within = Deadline(PATIENCE + pod.profile.detection_bound)  # a shim may call an agent for long that is not there
    with ThreadPoolExecutor(1) as pool:
        creation = pool.submit(pod.create, FOREVER, name=pod.id, within=within)
        while not pod.machine:
            assert not wait([creation], LOOK).done, "the creation ended before there was a machine"
        end_machine(pod)
        with pytest.raises(RPCError):
            creation.result()
    container = pod.create(FOREVER, name=pod.id)
    container.start()
    end_machine(pod)
    assert container.wait(pod.profile.detection_bound).status == pod.profile.status_of_lost_vm
    container.delete()
    live_again(pod, pod.id, ended=lambda: end_machine(pod))
    pod.events.expect("TaskDelete", pod.id, count=2, within=PATIENCE)  # after whatever else is told of it
    assert len(pod.events.of(pod.id, "TaskExit", "")) == 2


@requirement("RUNTIME-VM-007")
def test_the_machines_of_other_pods_go_on(pod: Pod, shared_pod: Pod) -> None:
    doomed = pod.run(FOREVER)
    with undisturbed(shared_pod):
        end_machine(pod)
        assert doomed.wait(pod.profile.detection_bound).status == pod.profile.status_of_lost_vm


@requirement("RUNTIME-VM-008")
@direct
def test_a_second_deletion_without_machine_and_shim_is_harmless(pod: Pod, census: Ledger) -> None:
    container: Container = pod.run(FOREVER)
    end_machine(pod)
    pod.shim.kill()
    pod.events.expect("TaskDelete", container.id, within=pod.profile.cleanup_bound)
    for _ in range(2):
        assert pod.delete_again(container.id).status == pod.profile.status_of_delete
    census.assert_clean(within=pod.profile.cleanup_bound)


@requirement("RUNTIME-VM-002")
def test_a_machine_that_hangs_on_the_way_to_a_container_is_noticed(pod: Pod) -> None:
    with ThreadPoolExecutor(1) as pool:
        creation = pool.submit(pod.create, FOREVER, within=pod.profile.detection_bound)
        while not pod.machine:
            assert not wait([creation], LOOK).done, "the container was there before a machine was seen"
        (machine,) = pod.machine
        pidfd = os.pidfd_open(machine)
        try:
            os.kill(machine, signal.SIGSTOP)
            with pytest.raises(RPCError):
                creation.result()
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            assert poll.poll(Deadline(pod.profile.cleanup_bound).remaining_ms), "the machine has stayed"
        finally:
            os.close(pidfd)
