# SPDX-License-Identifier: Apache-2.0
"""Calls that are under way when the machine of their pod is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from kvtest.deadline import Deadline
from kvtest.errors import RPCError
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
        processes = (self._running, self._beside, self._added, self._created)
        self._waits = [process.waiting(within) for process in processes]

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

    def check(self) -> None:
        """See that each was answered, though not how soon it was begun before the end.

        Raises:
            AssertionError: Something is not as it has to be.
            KvtestError: A call has failed in another way than by an answer that says so, or not been answered.
        """
        lost = self._pod.profile.status_of_lost_vm
        within = Deadline(self._pod.profile.detection_bound)
        assert [wait.result(within).status for wait in self._waits] == [lost] * len(self._waits)
        for start in self._starts:
            _answered(start)
        created = _answered(self._creation)
        status = self._deletion.result() if _answered(self._deletion) else self._ended.delete()
        assert status.status == _KEPT
        running, beside = self._running.id, self._beside.name
        self._pod.events.expect("TaskExit", running, process=beside, status=lost, within=PATIENCE)
        for container in list(self._pod.containers):
            self._pod.events.expect("TaskExit", container.id, status=lost, within=PATIENCE)
            assert container.state() is Status.STOPPED
            assert container.delete().status == lost
        for container in (self._running, self._created, self._ended):
            self._pod.events.expect("TaskDelete", container.id, within=PATIENCE)  # after whatever else is told of it
            assert len(self._pod.events.of(container.id, "TaskExit", "")) == 1
        assert created or self._pod.events.of(self._new) == [], "what was not created was told of"


def _answered(call: Future[Any]) -> bool:
    """Wait for the answer to a call, and return whether it was a good one."""
    try:
        call.result()
    except RPCError:
        return False
    return True


@contextlib.contextmanager
def every_call_ends(pod: Pod) -> Iterator[Calls]:
    """Have a pod lose its machine in the block, with calls under way, and see how they end.

    Each may have come first and be answered well. Who was there before ends with the machine, and what was not created
    is not told of.

    Args:
        pod: The pod; its containers are deleted then.

    Raises:
        AssertionError: Something was not as it has to be.
        KvtestError: A call was not answered within the profile's bound, or another has failed.
    """
    with ThreadPoolExecutor(4) as pool:
        calls = Calls(pod, pool)
        yield calls
        calls.check()
    pod.end(PATIENCE)
