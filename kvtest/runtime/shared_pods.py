# SPDX-License-Identifier: Apache-2.0
"""Pods that outlive a test: one for each driver, for tests that leave a pod as they have found it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from attrs import frozen

from kvtest.census import Ledger
from kvtest.errors import KvtestError, StateError
from kvtest.runtime.backend import Driver
from kvtest.runtime.container import Container
from kvtest.runtime.pod import Pod
from kvtest.runtime.pods import Pods
from kvtest.runtime.profile import Feature
from kvtest.runtime.tasks import Status

_PATIENCE = 10.0
_FOREVER = ["sleep", "1000000"]


@frozen(eq=False)
class _Shared:
    """A pod that several tests use one after another.

    Args:
        pods: Who has made it.
        pod: It.
        first: A container that stays, as the sandbox of a pod of Kubernetes does: a shim ends with its last one.
    """

    pods: Pods
    pod: Pod
    first: Container

    @property
    def lives(self) -> bool:
        """Whether its shim takes it for running."""
        try:
            return self.first.state(_PATIENCE) is Status.RUNNING
        except KvtestError:
            return False

    def look(self) -> None:
        """See that nobody has ended what was to stay.

        Raises:
            KvtestError: Somebody has, or its shim or its machine does not answer.
        """
        if (state := self.first.state(_PATIENCE)) is not Status.RUNNING:
            raise StateError(f"the first container of {self.pod.id}, which was to stay, is {state.name.lower()}")
        if Feature.STATS in self.pod.profile.features:  # which a shim cannot tell by itself: its machine has to answer
            kind, _ = self.first.stats(_PATIENCE)
            if not kind:  # all that containerd says of a shim that has failed
                raise StateError(f"the machine of {self.pod.id} does not tell what its first container uses")


class SharedPods:
    """The pods that tests share.

    Args:
        pods: Returns what makes pods under a driver.
        ledger: What exists by right.
    """

    def __init__(self, pods: Callable[[Driver], Pods], ledger: Ledger) -> None:
        self._make = pods
        self._ledger = ledger
        self._shared: dict[Driver, _Shared] = {}

    @contextlib.contextmanager
    def lend(self, driver: Driver) -> Iterator[Pod]:
        """Lend a pod to a test, and end then what the test has in it.

        Args:
            driver: Who runs its shim.

        Raises:
            KvtestError: It has not lived through the test.
        """
        shared = self._shared.get(driver)
        if shared is None or not shared.lives:
            self.give_up(driver)
            shared = self._shared[driver] = self._start(driver)
        with self._ledger.lasting(shared.pod.id):
            shared.pods.mark()  # what is looked at is another thing for each test
        try:
            yield shared.pod
        finally:
            try:
                shared.pod.end_all_but(shared.first, _PATIENCE)
                shared.look()
            except KvtestError:
                self.give_up(driver)
                raise

    def give_up(self, driver: Driver) -> None:
        """End the pod of a driver, if there is one; what it leaves is found by the census of the present test."""
        shared = self._shared.pop(driver, None)
        if shared is not None:
            shared.pods.end()
            shared.pods.release()

    def close(self) -> None:
        """End all of them."""
        for driver in list(self._shared):
            self.give_up(driver)

    def _start(self, driver: Driver) -> _Shared:
        pods = self._make(driver)
        try:
            pod = pods.prepare()
            with self._ledger.lasting(pod.id):
                pod.open()
                first = pod.run(_FOREVER)
                # Whatever the shim connects to for its events is there from now on.
                pod.events.expect("TaskStart", first.id, within=_PATIENCE)
        except BaseException:
            pods.end()
            pods.release()
            raise
        return _Shared(pods, pod, first)
