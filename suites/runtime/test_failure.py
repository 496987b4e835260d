# SPDX-License-Identifier: Apache-2.0
"""What happens when a shim or a container dies, in every phase; nobody calls for anything to be removed."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kvtest import Deadline, Pod, Pods, Status, requirement
from kvtest.census import Ledger
from kvtest.errors import DeadlineExceededError, RPCError, StateError
from kvtest.runtime.losses import assert_ends_are_published
from kvtest.runtime.neighbours import undisturbed
from kvtest.runtime.phases import FOREVER, PATIENCE, live_again, reach, reach_all

BOUND = 1.0  # seconds until calls under way have failed, of the requirement

pytestmark = pytest.mark.capability("runtime")

with_every_signal = pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)


def outlived(pods: Sequence[Pod], number: signal.Signals) -> list[Pod]:
    """Send a signal to the shims of pods, and return those whose shims have not ended: they may ignore some."""
    for pod in pods:
        pod.shim.kill(number)
    within = Deadline(pods[0].profile.cleanup_bound)
    alive = []
    for pod in pods:
        try:
            pod.shim.wait(within)
        except DeadlineExceededError:
            alive.append(pod)
    return alive


def states(pod: Pod) -> dict[str, Status]:
    """Return in which state each container of a pod is."""
    return {container.id: container.state() for container in pod.containers}


@requirement("RUNTIME-CLEANUP-001")
@with_every_signal
def test_everything_goes_with_the_shim(pods: Pods, census: Ledger, number: signal.Signals) -> None:
    """Whatever phase of their lives its containers are in; and as long as it is there, they are as they were."""
    started = reach_all(pods)
    before = [states(pod) for pod in started]
    for pod in outlived(started, number):
        assert states(pod) == before[started.index(pod)], f"the shim outlived {number.name}, and not all its containers"
        pod.shim.kill()
    census.assert_clean(within=started[0].profile.cleanup_bound)


@requirement("RUNTIME-CLEANUP-001", "RUNTIME-CLEANUP-002")
def test_everything_goes_with_a_shim_whose_one_container_was_not_started(pod: Pod, census: Ledger) -> None:
    container = reach(pod, "created")
    pod.shim.kill()
    assert_ends_are_published(pod, [container], Deadline(pod.profile.cleanup_bound))
    census.assert_clean(within=pod.profile.cleanup_bound)


@pytest.mark.capability("runtime-hooks")
@pytest.mark.parametrize(
    "when",
    [
        pytest.param("createRuntime", marks=requirement("RUNTIME-CLEANUP-008")),
        pytest.param("poststart", marks=requirement("RUNTIME-CLEANUP-001")),
    ],
)
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_everything_goes_when_a_shim_dies_on_the_way(pod: Pod, census: Ledger, tmp_path: Path, when: str) -> None:
    """A hook holds the runtime up in the middle of Create or Start, and ends by itself when the shim is dead."""
    reached, go_on = tmp_path / "reached", tmp_path / "go-on"
    for fifo in (reached, go_on):
        os.mkfifo(fifo)
    hook = ["/bin/sh", "-c", f"exec 3<{go_on}; echo >{reached}; cat <&3"]
    with ThreadPoolExecutor(1) as pool, go_on.open("rb+", 0):
        life = pool.submit(lambda: pod.create(FOREVER, hooks={when: hook}).start())
        with open(os.open(reached, os.O_RDONLY | os.O_NONBLOCK), "rb", 0) as stream:
            assert select.select([stream], [], [], PATIENCE)[0], "the hook was not run"
        assert not life.done()
        pod.shim.kill()
        with pytest.raises((RPCError, StateError)):
            life.result(PATIENCE)
    census.assert_clean(within=pod.profile.cleanup_bound)


@requirement("RUNTIME-CLEANUP-001")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_everything_goes_when_a_shim_dies_in_a_deletion(pod: Pod, census: Ledger) -> None:
    container = reach(pod, "ended")
    pod.shim.kill(signal.SIGSTOP)  # so that it dies with the call unanswered
    with ThreadPoolExecutor(1) as pool:
        deletion = pool.submit(container.delete, PATIENCE)
        pod.shim.kill()
        with pytest.raises((RPCError, StateError)):
            deletion.result()
    census.assert_clean(within=pod.profile.cleanup_bound)


@requirement("RUNTIME-CLEANUP-001")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_everything_goes_with_a_shim_that_never_had_a_container(pod: Pod, census: Ledger) -> None:
    pod.shim.kill()
    census.assert_clean(within=pod.profile.cleanup_bound)


@requirement("RUNTIME-CLEANUP-002")
@with_every_signal
def test_the_end_is_published_when_the_shim_has_died(pods: Pods, number: signal.Signals) -> None:
    started = reach_all(pods, ("created", "running", "exec"))
    for pod in outlived(started, number):
        pod.shim.kill()
    within = Deadline(started[0].profile.cleanup_bound)
    for pod in started:
        assert_ends_are_published(pod, pod.containers, within)


@requirement("RUNTIME-CLEANUP-003")
def test_the_socket_of_a_dead_shim_does_not_stay(pod: Pod) -> None:
    container = pod.run(FOREVER)
    pod.shim.kill()
    pod.events.expect("TaskDelete", container.id, within=pod.profile.cleanup_bound)
    pod.shim.wait(PATIENCE)
    assert pod.backend.stale_sockets == []


@requirement("RUNTIME-CLEANUP-004")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_a_second_deletion_is_harmless(pod: Pod, census: Ledger) -> None:
    container = pod.run(FOREVER)
    pod.shim.kill()
    pod.events.expect("TaskDelete", container.id, within=pod.profile.cleanup_bound)
    for _ in range(2):
        assert pod.delete_again(container.id).status == pod.profile.status_of_delete
    census.assert_clean(within=pod.profile.cleanup_bound)


@requirement("RUNTIME-CLEANUP-005")
def test_an_id_can_be_used_again_at_once(pod: Pod) -> None:
    container = pod.run(FOREVER)
    first = pod.shim.pid
    pod.shim.kill()
    pod.events.expect("TaskDelete", container.id, within=pod.profile.cleanup_bound)
    pod.forget_lost(container)
    live_again(pod, container.id)
    assert pod.shim.pid != first


@requirement("RUNTIME-CLEANUP-006")
def test_other_pods_are_left_as_they_are(pod: Pod, shared_pod: Pod) -> None:
    doomed = pod.run(FOREVER)
    with undisturbed(shared_pod):
        pod.shim.kill()
        pod.events.expect("TaskDelete", doomed.id, within=pod.profile.cleanup_bound)


@requirement("RUNTIME-CLEANUP-007")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_calls_under_way_fail_with_the_shim(pod: Pod) -> None:
    container = pod.run(FOREVER)
    waiting = [container.waiting(PATIENCE) for _ in range(4)]
    pod.shim.kill()
    deadline = Deadline(BOUND)
    for pending in waiting:
        with pytest.raises(RPCError):
            pending.result(deadline)


@requirement("RUNTIME-LOST-001")
@pytest.mark.capability("runtime-init-on-host")
@pytest.mark.parametrize("phase", ["created", "running", "exec", "output", "input"])
def test_the_death_of_the_first_process_is_noticed(pod: Pod, phase: str) -> None:
    container = reach(pod, phase)
    waiting = container.waiting(PATIENCE)
    os.kill(container.pid, signal.SIGKILL)
    assert waiting.result(pod.profile.detection_bound).status == 137
    pod.events.expect("TaskExit", container.id, status=137, within=pod.profile.detection_bound)
    assert container.state() is Status.STOPPED
    assert container.delete().status == 137


@requirement("RUNTIME-LOST-002")
def test_a_stopped_shim_goes_on(pod: Pod) -> None:
    container = pod.run(FOREVER)
    pod.shim.kill(signal.SIGSTOP)
    waiting = container.waiting(PATIENCE)
    with pytest.raises(DeadlineExceededError):
        waiting.result(0.2)
    answered = container.waiting(PATIENCE)
    pod.shim.kill(signal.SIGCONT)
    assert container.state(pod.profile.detection_bound) is Status.RUNNING
    container.kill()
    assert answered.result(pod.profile.detection_bound).status == 137
