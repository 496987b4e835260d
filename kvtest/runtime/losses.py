# SPDX-License-Identifier: Apache-2.0
"""How those who wait for the processes of a pod learn that its machine is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from kvtest.deadline import Deadline
from kvtest.errors import DeadlineExceededError, RPCError
from kvtest.runtime.container import Container, Process
from kvtest.runtime.phases import PATIENCE
from kvtest.runtime.pod import Pod
from kvtest.runtime.tasks import ExitStatus, PendingExit, Status


def name_of(container: Container, process: Process) -> str:
    """Return what a process is called, of all those of a pod."""
    return f"{container.id}/{process.name}" if process.name else container.id


def told(waiting: Mapping[str, PendingExit], within: Deadline) -> dict[str, ExitStatus]:
    """Return what those who wait for processes are told.

    Args:
        waiting: The waits, by what the processes are called.
        within: When to give up.

    Raises:
        DeadlineExceededError: Somebody is not told in time; the message says about which process.
        RPCError: Somebody is told something else than an end.
    """
    return {name: _told(name, pending, within) for name, pending in waiting.items()}


def _told(name: str, pending: PendingExit, within: Deadline) -> ExitStatus:
    try:
        return pending.result(within)
    except DeadlineExceededError as error:
        raise DeadlineExceededError(f"{name}: {error.message}", hint=error.hint) from None


def told_or_lost(pod: Pod, waiting: Mapping[str, PendingExit], within: Deadline) -> dict[str, ExitStatus] | None:
    """Return what those who wait for processes of a pod are told; ``None`` if its shim has ended instead.

    A shim may give up with a machine or an agent that hangs, as that of Kata Containers in Rust does: whoever waits
    loses the connection, and the pod is removed as after any death of a shim.

    Args:
        pod: The pod.
        waiting: The waits, by what the processes are called.
        within: When to give up.

    Raises:
        DeadlineExceededError: Somebody is not told in time.
        RPCError: Somebody is told something else than an end, and the shim goes on.
    """
    try:
        return told(waiting, within)
    except RPCError as error:
        try:
            pod.shim.wait(PATIENCE)
        except DeadlineExceededError:
            raise error from None
        return None


def assert_ends_are_published(pod: Pod, containers: Sequence[Container], within: Deadline) -> None:
    """See that containers whose shim has died are published to have ended and to be deleted, as ``delete`` tells.

    Args:
        pod: The pod.
        containers: Containers of it that had not ended before.
        within: When to give up.

    Raises:
        AssertionError: An end is published twice, or with another status than the profile's.
        DeadlineExceededError: One is not published in time.
    """
    status = pod.profile.status_of_delete
    for container in containers:
        pod.events.expect("TaskExit", container.id, status=status, within=within)
        pod.events.expect("TaskDelete", container.id, status=status, within=within)
        published = len(pod.events.of(container.id, "TaskExit", ""))
        assert published == 1, f"the end of {container.id} was published {published} times"


def assert_statuses(ends: Mapping[str, ExitStatus], status: int) -> None:
    """See that all processes are told to have ended with a status, and at some time.

    Args:
        ends: How they ended, by what they are called.
        status: The exit status that a lost machine has.

    Raises:
        AssertionError: One is told to have ended otherwise; the message says which, and how.
    """
    others = {name: end.status for name, end in ends.items() if end.status != status}
    assert others == {}, f"processes of a lost machine end with status {status}, and told were {others}"
    timeless = [name for name, end in ends.items() if end.at is None]
    assert timeless == [], f"processes that ended at no time: {timeless}"


@contextlib.contextmanager
def everybody_learns_of_the_loss(pods: Sequence[Pod]) -> Iterator[None]:
    """Have pods lose their machines in the block, and see that all who wait for a process are told, and once.

    Args:
        pods: The pods; none of their containers' processes has ended.

    Raises:
        AssertionError: Somebody was not told, or was told something else.
        DeadlineExceededError: It took longer than the profile's bound.
    """
    everybody = {
        name_of(container, process): (pod, container, process)
        for pod in pods
        for container in reversed(pod.containers)  # a pod's first one is its sandbox, and goes last
        for process in (*container.processes, container)  # each before its container is deleted
    }
    bound, status = pods[0].profile.detection_bound, pods[0].profile.status_of_lost_vm
    patience = PATIENCE + bound
    first, second = ({name: process.waiting(patience) for name, (_, _, process) in everybody.items()} for _ in range(2))
    yield
    within = Deadline(bound)
    ends = told(first, within)
    assert_statuses(ends, status)
    assert_statuses(told(second, within), status)
    for pod, container, process in everybody.values():
        if process is container:
            pod.events.expect("TaskExit", container.id, status=status, within=within)
    for name, (pod, container, process) in everybody.items():
        snapshot = process.snapshot()
        assert (snapshot.status, snapshot.exit) == (Status.STOPPED, ends[name]), name
        assert process.delete() == ends[name], name
        if process is container:
            pod.events.expect("TaskDelete", container.id, within=PATIENCE)  # after whatever else is told of it
    for name, (pod, container, process) in everybody.items():
        published = [event.message for event in pod.events.of(container.id, "TaskExit", process.name)]
        assert len(published) == 1, f"the end of {name} was published {len(published)} times"
        assert ExitStatus.of(published[0]) == ends[name], name
        pid = published[0].pid
        assert pid == process.pid, f"the end of {name}, process {process.pid}, was published as that of process {pid}"
