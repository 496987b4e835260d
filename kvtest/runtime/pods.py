# SPDX-License-Identifier: Apache-2.0
"""Makes pods, ends them, and looks whether anything of them is left on the host."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from kvtest.census import Kind
from kvtest.census.removal import remove_by_force
from kvtest.deadline import Deadline
from kvtest.errors import KvtestError, LeakError
from kvtest.ownership import RunDirectory
from kvtest.ownership.owner import current_keeper
from kvtest.runtime.backend import Backend, Driver, Surroundings
from kvtest.runtime.container import PATIENCE
from kvtest.runtime.containerd import Containerd, ContainerdBackend
from kvtest.runtime.direct import BUNDLES, DirectBackend
from kvtest.runtime.events import EventLog
from kvtest.runtime.pod import Pod
from kvtest.runtime.sink import Sink

if TYPE_CHECKING:
    from kvtest.runtime.under_test import RuntimeUnderTest

_END_SECONDS = 10.0  # that a pod may take to end in order


class Pods:
    """The pods of one test.

    Args:
        runtime: The runtime.
        driver: Who runs the shims.
    """

    def __init__(self, runtime: RuntimeUnderTest, driver: Driver = Driver.DIRECT) -> None:
        self.runtime = runtime
        self.driver = driver
        self._pods: list[tuple[Pod, RunDirectory]] = []
        #: A pod that outlives the test.
        self.lent: Pod | None = None

    @property
    def in_use(self) -> list[Pod]:
        """The pods that the test has."""
        return [*([self.lent] if self.lent is not None else []), *(pod for pod, _ in self._pods)]

    def start(self, *, sink: Sink = Sink.LIVE, within: Deadline | float = PATIENCE) -> Pod:
        """Start a pod.

        Args:
            sink: How the events service behaves that its shim is given.
            within: When to give up.
        """
        pod = self.prepare(sink=sink)
        pod.open(within)
        return pod

    def start_many(self, count: int, within: Deadline | float = PATIENCE) -> Sequence[Pod]:
        """Start several pods at once."""
        deadline = Deadline.of(within)
        pods = [self.prepare() for _ in range(count)]
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda pod: pod.open(deadline), pods))
        return pods

    def close(self) -> None:
        """End all pods, and see that nothing of them is left on the host; others can be started then.

        Raises:
            LeakError: Something is; it is removed by force.
        """
        problems = self.end()
        ledger = self.runtime.ledger
        try:
            bound = Deadline(self.runtime.installation.profile.cleanup_bound)
            ledger.close(bound, without=(Kind.DESCRIPTOR,))
        except LeakError as error:
            remove_by_force(ledger.left())
            for problem in problems:
                error.add_note(problem)
            raise
        finally:
            self.release()

    def end(self) -> list[str]:
        """End all pods in order, and return what was in the way."""
        if not self._pods:
            return []
        if self.driver is Driver.CONTAINERD:
            _ = self.runtime.containerd  # a test that failed may have left it dead

        def end(pod: Pod) -> str | None:
            try:
                pod.end(_END_SECONDS)
            except KvtestError as error:
                return f"{pod.id} did not end in order: {error.message}"
            return None

        with ThreadPoolExecutor(len(self._pods)) as pool:
            return [problem for problem in pool.map(end, [pod for pod, _ in self._pods]) if problem is not None]

    def mark(self) -> None:
        """Have the census look at what belongs to them."""
        for _, directory in self._pods:
            self.runtime.ledger.marks.add_place(directory.path)

    def release(self) -> None:
        """Give back what is ours of them, and take nothing of them for being there by right any more."""
        for pod, directory in self._pods:
            pod.close()
            directory.close()
            current_keeper().keep_cgroups(pod.id)
            self.runtime.ledger.release(pod.id)
        self._pods.clear()

    def prepare(self, *, sink: Sink = Sink.LIVE) -> Pod:
        """Return a pod whose shim has not been started yet; see :meth:`start`."""
        name = f"kvtest-{secrets.token_hex(5)}"
        runtime = self.runtime
        files = runtime.rootfs
        containerd = runtime.containerd if self.driver is Driver.CONTAINERD else None
        mounts = runtime.mounts
        marks = runtime.ledger.marks
        current_keeper().remove_cgroups(name)
        with runtime.ledger.lasting(name), contextlib.ExitStack() as opened:
            directory = opened.enter_context(RunDirectory(runtime.base))
            marks.add_place(directory.path)
            directory.own_sockets_in(f"{BUNDLES}/*/address")
            surroundings = Surroundings(name, runtime.installation, directory.path, mounts)

            def owned(pattern: str) -> None:
                marks.paths.add(pattern)
                directory.own(pattern)

            pod = Pod(surroundings, files, self._backend(surroundings, sink, containerd, owned), owned, marks.cids.add)
            opened.pop_all()
        marks.add_word(name)
        self._pods.append((pod, directory))
        return pod

    def _backend(
        self, surroundings: Surroundings, sink: Sink, containerd: Containerd | None, owned: Callable[[str], None]
    ) -> Callable[[EventLog], Backend]:
        def through_containerd(log: EventLog) -> Backend:
            assert containerd is not None
            return ContainerdBackend(surroundings, log, lambda path: owned(str(path)), containerd)

        def direct(log: EventLog) -> Backend:
            return DirectBackend(surroundings, log.add, lambda path: owned(str(path)), sink)

        return direct if containerd is None else through_containerd
