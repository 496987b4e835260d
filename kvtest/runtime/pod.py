# SPDX-License-Identifier: Apache-2.0
"""Pods, as suites see them."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvtest.deadline import Deadline
from kvtest.errors import KvtestError, RPCError, StateError
from kvtest.runtime import spec
from kvtest.runtime.backend import Backend, Plan, Surroundings
from kvtest.runtime.console import Console
from kvtest.runtime.container import PATIENCE, Container
from kvtest.runtime.events import EventLog
from kvtest.runtime.machine import address_in, cid_of, processes_of
from kvtest.runtime.profile import Profile
from kvtest.runtime.shim import ShimProcess
from kvtest.runtime.stdio import Input, Output
from kvtest.runtime.tasks import ExitStatus, Status, Streams, Tasks

if TYPE_CHECKING:
    from kvtest.runtime.agent import Agent


class Pod:
    """Containers that one shim serves.

    Args:
        surroundings: What it is given.
        rootfs: The root file system of its containers, which is shared and stays as it is.
        backend: Makes what runs its shims, told where events go and what paths are made.
        owned: Told shell patterns of the paths that it may have on the host.
        met: Told the vsock address of its guest, where the host's kernel has it.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        rootfs: Path,
        backend: Callable[[EventLog], Backend],
        owned: Callable[[str], None],
        met: Callable[[int], None],
    ) -> None:
        self.id = surroundings.pod
        self.events = EventLog()
        self.containers: list[Container] = []
        self._given = surroundings
        self._rootfs = rootfs
        self._owned = owned
        self._met = met
        self._numbers = itertools.count(1)
        self._layers = itertools.count(1)
        self._streams: list[Streams] = []
        self._lock = threading.Lock()
        self.backend = backend(self.events)

    @property
    def profile(self) -> Profile:
        """The profile of its runtime."""
        return self._given.installation.profile

    @property
    def machine(self) -> list[int]:
        """The processes of its virtual machine, as the profile says how to find them; none if it has none."""
        return [] if self.profile.vm is None else processes_of(self.profile.vm, self.id)

    def open(self, within: Deadline | float = PATIENCE) -> None:
        """Start its shim, where that comes before the first container.

        Args:
            within: When to give up.
        """
        self.backend.open(Deadline.of(within))

    def console(self, within: Deadline | float = PATIENCE) -> Console:
        """Open a debug console of its guest, once it has a container.

        Args:
            within: When to give up.

        Raises:
            NotOfferedError: There is none, and the profile says how to have one.
            KvtestError: There should be one.
        """
        return Console(self.profile, self.id, within)

    def agent(self, within: Deadline | float = PATIENCE) -> Agent:
        """Connect to the agent of its guest, as a client beside its shim; who asks closes the connection.

        Args:
            within: When to give up.

        Raises:
            StateError: The profile knows of none, or the virtual machine is not there, or not as the profile says.
            TransportError: Nobody answers.
            DeadlineExceededError: Nobody answers in time.
        """
        from kvtest.runtime.agent import AgentEndpoint

        if self.profile.vm is None or self.profile.vm.agent is None:
            raise StateError(f"{self.profile.name} has no agent that others can reach, says its profile")
        deadline = Deadline.of(within)
        address = address_in(self.profile, self.id, self.profile.vm.agent)
        return AgentEndpoint(address).connect(deadline)

    @property
    def shim(self) -> ShimProcess:
        """The process of its shim.

        Raises:
            StateError: There is none yet.
        """
        found = self.backend.shim
        if found is None:
            raise StateError(f"the pod {self.id} has no shim yet")
        return found

    @property
    def logs(self) -> list[str]:
        """Shell patterns of the files that tell what its shim and its machine do, and who runs them."""
        return [*(escape(str(path)) for path in self.backend.logs), *self._given.logs]

    @property
    def address(self) -> Path:
        """The socket of its shim."""
        return self.backend.address

    def bundle(self, container: str) -> Path:
        """Return the bundle of a container."""
        return self.backend.bundle(container)

    def tasks(self, container: str) -> Tasks:
        """Return whom to ask about a container."""
        return self.backend.tasks(container)

    def create(
        self,
        arguments: Sequence[str],
        *,
        name: str | None = None,
        environment: Mapping[str, str] | None = None,
        stdin: bool = False,
        terminal: bool = False,
        hooks: Mapping[str, Sequence[str]] | None = None,
        resources: Mapping[str, Any] | None = None,
        configure: Callable[[dict[str, Any]], None] | None = None,
        within: Deadline | float = PATIENCE,
    ) -> Container:
        """Create a container; the first one has the ID of the pod.

        Args:
            arguments: Program and arguments.
            name: Its ID; chosen if ``None``.
            environment: What is added to its environment.
            stdin: Whether it has an input.
            terminal: Whether it has a terminal.
            hooks: Programs that the runtime runs on the host on the way, by when it does (config.md of OCI, "Hooks").
            resources: Its limits, as ``linux.resources`` of the OCI runtime specification has them.
            configure: Changes its specification, as ``config.json`` has it, before it is created.
            within: When to give up.
        """
        if name is None:
            number = next(self._numbers)
            name = self.id if number == 1 else f"{self.id}-{number}"
        described = spec.container(
            self.id, name, arguments, environment, terminal=terminal, hooks=hooks, resources=resources
        )
        if configure is not None:
            configure(described)
        for pattern in self._given.owned_paths(name):
            self._owned(pattern)
        streams = self.streams(name, stdin=stdin, terminal=terminal)
        container = Container(self, name, streams)
        with self._lock:
            self.containers.append(container)
        try:
            plan = Plan(name, described, self._layer(name), streams)
            container.pid = self.backend.create(plan, Deadline.of(within))
        except KvtestError:
            with self._lock:
                self.containers.remove(container)
            raise
        if name == self.id and (cid := cid_of(self.profile, self.id)) is not None:
            self._met(cid)
        if streams.stdin is not None:
            streams.stdin.open()
        return container

    def run(
        self,
        arguments: Sequence[str],
        *,
        stdin: bool = False,
        terminal: bool = False,
        resources: Mapping[str, Any] | None = None,
        configure: Callable[[dict[str, Any]], None] | None = None,
        within: Deadline | float = PATIENCE,
    ) -> Container:
        """Create a container and start it; see :meth:`create`."""
        deadline = Deadline.of(within)
        container = self.create(
            arguments, stdin=stdin, terminal=terminal, resources=resources, configure=configure, within=deadline
        )
        container.start(deadline)
        return container

    def streams(self, name: str, *, stdin: bool, terminal: bool) -> Streams:
        """Make the streams of a process."""
        directory = self._given.directory / "fifos"
        directory.mkdir(exist_ok=True)
        with self._lock:
            base = f"{name}-{len(self._streams)}"
            streams = Streams(
                Output(directory / f"{base}.out"),
                None if terminal else Output(directory / f"{base}.err"),
                Input(directory / f"{base}.in") if stdin else None,
            )
            self._streams.append(streams)
        return streams

    def forget(self, container: Container, deadline: Deadline) -> None:
        """Take a container out of the books that was deleted."""
        with self._lock:
            self.containers.remove(container)
        self.backend.removed(container.id, deadline)

    def forget_lost(self, container: Container) -> None:
        """Take a container out of the books that went with its shim, so that its ID can be used again."""
        with self._lock:
            self.containers.remove(container)
        self.backend.forget_lost(container.id)

    def delete_again(self, container: str) -> ExitStatus:
        """Have the shim's program remove once more what is left of a container; only where kvtest runs the shims."""
        return self.backend.delete(container)

    def end_all_but(self, kept: Container, within: Deadline | float) -> None:
        """End its containers but one, and give back what is ours of them.

        Raises:
            KvtestError: Something did not end.
        """
        deadline = Deadline.of(within)
        for container in list(self.containers):
            if container is not kept:
                self._end(container, deadline)
        kept.end_processes(deadline)
        with self._lock:
            given_back = [streams for streams in self._streams if streams is not kept.streams]
            self._streams = [kept.streams]
        for streams in given_back:
            streams.close()

    def end(self, within: Deadline | float) -> None:
        """End its containers, the first one last, and its shim; what a shim that is gone has left is not looked after.

        Raises:
            KvtestError: Something did not end.
        """
        deadline = Deadline.of(within)
        if self.backend.shim is not None:
            self.backend.shim.kill(signal.SIGCONT)
        for container in reversed(list(self.containers)):  # the first is the sandbox, without which no other goes on
            with contextlib.suppress(StateError, RPCError):  # the shim is gone, or it has ended
                self._end(container, deadline)
        self.backend.end(deadline)

    def _end(self, container: Container, deadline: Deadline) -> None:
        if container.state(deadline) is Status.PAUSED:
            container.resume(deadline)
        with contextlib.suppress(RPCError):  # it has ended already
            container.kill(everybody=True, within=deadline)
        container.wait(deadline)
        container.delete(deadline)

    def close(self) -> None:
        """Give back what is ours."""
        self.backend.close()
        for streams in self._streams:
            streams.close()

    def _layer(self, name: str) -> Mapping[str, object]:
        """Return the mount of a root file system of its own on top of the shared one."""
        base = self._given.directory / "layers" / f"{name}-{next(self._layers)}"
        upper, work = base / "upper", base / "work"
        upper.mkdir(parents=True)
        work.mkdir()
        options = [f"lowerdir={self._rootfs}", f"upperdir={upper}", f"workdir={work}"]
        return {"type": "overlay", "source": "overlay", "options": options}
