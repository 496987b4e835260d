# SPDX-License-Identifier: Apache-2.0
"""Makes pods, ends them, and looks whether anything of them is left on the host."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kvtest.census import Kind, Ledger
from kvtest.census.removal import remove_by_force
from kvtest.deadline import Deadline
from kvtest.errors import KvtestError, LeakError, StateError
from kvtest.ownership import MountNamespace, RunDirectory
from kvtest.ownership.owner import current_keeper
from kvtest.runtime import rootfs
from kvtest.runtime.backend import Backend, Driver, Surroundings
from kvtest.runtime.containerd import Containerd, ContainerdBackend, find_containerd
from kvtest.runtime.direct import DirectBackend
from kvtest.runtime.events import EventLog
from kvtest.runtime.installation import Installation, root_is_mount_point
from kvtest.runtime.pod import PATIENCE, Pod
from kvtest.runtime.sink import Sink

_END_SECONDS = 10.0  # that a pod may take to end in order
_CONTAINERD = "containerd"
_MOUNTS = "the mount namespace of shims"
# Made and destroyed in a row: as many as are done in some 10 s.
_PODS = 100
_MACHINES = 10
_FILES = "the root file system of containers"


class RuntimeUnderTest:
    """A runtime, and what all pods of it share.

    Args:
        installation: The runtime.
        ledger: What exists by right.
        base: Where to make run directories; chosen if ``None``.
        pods_in_a_row: How many pods are a number in which a leak shows; chosen if ``None``.
    """

    def __init__(
        self,
        installation: Installation,
        ledger: Ledger,
        base: Path | None = None,
        pods_in_a_row: int | None = None,
    ) -> None:
        self.installation = installation
        self.ledger = ledger
        self.base = base
        self.pods_in_a_row = pods_in_a_row or (_PODS if installation.profile.vm is None else _MACHINES)
        self._directory: RunDirectory | None = None
        self._containerd: tuple[Containerd, RunDirectory] | None = None
        self._mounts: MountNamespace | None = None

    @property
    def mounts(self) -> MountNamespace | None:
        """The mount namespace of shims and of our containerd: what they mount is not seen on the host.

        There is none in a chroot: whoever enters a mount namespace has the root of that one (setns(2)).
        """
        if self._mounts is None and root_is_mount_point():
            with self.ledger.lasting(_MOUNTS):
                self._mounts = MountNamespace()
        return self._mounts

    @property
    def rootfs(self) -> Path:
        """The root file system of containers, made when first asked for."""
        if self._directory is None:
            with self.ledger.lasting(_FILES):
                self._directory = RunDirectory(self.base)
                rootfs.make(self._directory.path / "rootfs")
        return self._directory.path / "rootfs"

    @property
    def containerd(self) -> Containerd:
        """A containerd of our own, started when first asked for, and again when it was killed.

        Raises:
            ContainerdError: It did not start.
            MissingToolError: There is none.
        """
        if self._containerd is None:
            mounts = self.mounts
            with self.ledger.lasting(_CONTAINERD), contextlib.ExitStack() as opened:
                directory = opened.enter_context(RunDirectory(self.base))
                containerd = Containerd(directory.path, find_containerd(), self.installation, mounts)
                self._containerd = (containerd, directory)
                opened.pop_all()
        elif not self._containerd[0].running:
            self.start_containerd_again()
        return self._containerd[0]

    def kill_containerd(self) -> None:
        """Kill our containerd; its shims are not asked."""
        self.containerd.kill()

    def start_containerd_again(self) -> None:
        """Start our containerd again after it was killed.

        Raises:
            ContainerdError: It did not start.
            StateError: There was none.
        """
        if self._containerd is None:
            raise StateError("there was no containerd that could be started again")
        with self.ledger.lasting(_CONTAINERD):
            self._containerd[0].start()

    def close(self) -> None:
        """Remove what was shared."""
        if self._containerd is not None:
            containerd, directory = self._containerd
            self._containerd = None
            containerd.close()
            directory.close()
            self.ledger.release(_CONTAINERD)
        if self._directory is not None:
            self._directory.close()
            self._directory = None
            self.ledger.release(_FILES)
        if self._mounts is not None:
            self._mounts.close()
            self._mounts = None
            self.ledger.release(_MOUNTS)


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
        problems = []
        if self.driver is Driver.CONTAINERD and self._pods:
            _ = self.runtime.containerd  # a test that failed may have left it dead
        for pod, _ in self._pods:
            try:
                pod.end(_END_SECONDS)
            except KvtestError as error:
                problems.append(f"{pod.id} did not end in order: {error.message}")
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
            self._release()

    def _release(self) -> None:
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
            surroundings = Surroundings(name, runtime.installation, directory.path, mounts)
            pod = Pod(surroundings, files, self._backend(surroundings, sink, containerd), marks.paths.add)
            opened.pop_all()
        marks.add_word(name)
        self._pods.append((pod, directory))
        return pod

    def _backend(
        self, surroundings: Surroundings, sink: Sink, containerd: Containerd | None
    ) -> Callable[[EventLog], Backend]:
        paths = self.runtime.ledger.marks.paths

        def through_containerd(log: EventLog) -> Backend:
            assert containerd is not None
            return ContainerdBackend(surroundings, log, lambda path: paths.add(str(path)), containerd)

        def direct(log: EventLog) -> Backend:
            return DirectBackend(surroundings, log.add, lambda path: paths.add(str(path)), sink)

        return direct if containerd is None else through_containerd
