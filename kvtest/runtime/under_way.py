# SPDX-License-Identifier: Apache-2.0
"""Calls that are under way when the machine of their pod is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from kvtest.deadline import Deadline
from kvtest.errors import RPCError
from kvtest.runtime.losses import assert_ends_are_published, assert_statuses, name_of, told, told_or_lost
from kvtest.runtime.phases import FOREVER, PATIENCE
from kvtest.runtime.pod import Pod
from kvtest.runtime.tasks import Status

_KEPT = 9  # the exit status of what has ended before
_BEFORE = 2.0  # seconds that calls may be under way before the machine is lost


class Calls:
    """Calls of each kind that need the machine: some wait already, others are begun when it does not answer any more.

    Args:
        pod: The pod.
        pool: Threads for them.
    """

    def __init__(self, pod: Pod, pool: ThreadPoolExecutor) -> None:
        self._pod = pod
        self._pool = pool
        self._running = pod.run(FOREVER)
        self._beside = self._running.exec(FOREVER)
        self._added = self._running.exec(FOREVER, start=False)
        self._created = pod.create(FOREVER)
        self._ended = pod.run(["sh", "-c", f"exit {_KEPT}"])
        self._ended.wait(PATIENCE)
        self._new = f"{pod.id}-new"
        within = PATIENCE + pod.profile.detection_bound
        self._waits = {
            name_of(container, process): process.waiting(within)
            for container, process in (
                (self._running, self._running),
                (self._running, self._beside),
                (self._running, self._added),
                (self._created, self._created),
            )
        }

    def begin(self) -> None:
        """Begin a creation, two starts and a deletion."""
        within = Deadline(_BEFORE + self._pod.profile.detection_bound)
        self._creation: Future[Any] = self._pool.submit(self._pod.create, FOREVER, name=self._new, within=within)
        self._starts = [self._pool.submit(process.start, within) for process in (self._created, self._added)]
        self._deletion: Future[Any] = self._pool.submit(self._ended.delete, within)

    @property
    def futures(self) -> list[Future[Any]]:
        """Those that were begun."""
        return [self._creation, *self._starts, self._deletion]

    def check(self, *, hung: bool) -> None:
        """See that each was answered, though not how soon it was begun before the end.

        Args:
            hung: Whether the machine or its agent hangs. Then the shim may end with it.

        Raises:
            AssertionError: Something is not as it has to be.
            KvtestError: A call has failed in another way than by an answer that says so, or not been answered.
        """
        within = Deadline(self._pod.profile.detection_bound)
        ends = told_or_lost(self._pod, self._waits, within) if hung else told(self._waits, within)
        if ends is not None:
            assert_statuses(ends, self._pod.profile.status_of_lost_vm)
        for start in self._starts:
            _answered(start)
        created, deleted = _answered(self._creation), _answered(self._deletion)
        if deleted:
            assert self._deletion.result().status == _KEPT
        if ends is None:
            bound = Deadline(self._pod.profile.cleanup_bound)
            assert_ends_are_published(self._pod, (self._running, self._created), bound)
        else:
            self._check_deletions(deleted=deleted)
        # Where the shim has ended, what it was about to create is deleted, and that is published.
        untrue = self._pod.events.of(self._new, "TaskCreate" if ends is None else None)
        assert created or untrue == [], f"what was not created was told of: {', '.join(map(str, untrue))}"

    def _check_deletions(self, *, deleted: bool) -> None:
        """See that the shim tells of all that has ended, and deletes it."""
        if not deleted:
            assert self._ended.delete().status == _KEPT
        lost = self._pod.profile.status_of_lost_vm
        running, beside = self._running.id, self._beside.name
        self._pod.events.expect("TaskExit", running, process=beside, status=lost, within=PATIENCE)
        for container in reversed(list(self._pod.containers)):
            self._pod.events.expect("TaskExit", container.id, status=lost, within=PATIENCE)
            assert container.state() is Status.STOPPED
            assert container.delete().status == lost
        for container in (self._running, self._created, self._ended):
            self._pod.events.expect("TaskDelete", container.id, within=PATIENCE)  # after whatever else is told of it
            assert len(self._pod.events.of(container.id, "TaskExit", "")) == 1


def _answered(call: Future[Any]) -> bool:
    """Wait for the answer to a call, and return whether it was a good one."""
    try:
        call.result()
    except RPCError:
        return False
    return True


@contextlib.contextmanager
def every_call_ends(pod: Pod, *, hung: bool = False) -> Iterator[Calls]:
    """Have a pod lose its machine in the block, with calls under way, and see how they end.

    Each may have come first and be answered well. Who was there before ends with the machine, and what was not created
    is not told of.

    Args:
        pod: The pod; its containers are deleted then.
        hung: Whether its machine or its agent hangs in the block, and does not end. Then the shim may end with it.

    Raises:
        AssertionError: Something was not as it has to be.
        KvtestError: A call was not answered within the profile's bound, or another has failed.
    """
    with ThreadPoolExecutor(4) as pool:
        calls = Calls(pod, pool)
        yield calls
        calls.check(hung=hung)
    pod.end(PATIENCE)
