# SPDX-License-Identifier: Apache-2.0
"""The containers of a guest, and the events that concern all of them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from kvtest.errors import RPCError
from kvtest.guest.agent.container import Container, State, Tools
from kvtest.guest.agent.crun import Done
from kvtest.guest.agent.storage import Mounts
from kvtest.rpc.server import Call
from kvtest.rpc.status import Code

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}")
_MOST_EVENTS = 1024


class Sandbox:
    """All containers.

    Args:
        tools: What the containers share.
        tell_oom: Answers a call with the name of a container.
    """

    def __init__(self, tools: Tools, tell_oom: Callable[[Call, str], None]) -> None:
        self._tools = tools
        self._tell_oom = tell_oom
        self._hostname = ""
        self._containers: dict[str, Container] = {}
        self._mounts: list[Mounts] = []
        self._oom_events: deque[str] = deque(maxlen=_MOST_EVENTS)
        self._oom_waiters: deque[Call] = deque()

    def __getitem__(self, name: str) -> Container:
        """Return a container.

        Raises:
            RPCError: There is none of that name.
        """
        try:
            return self._containers[name]
        except KeyError:
            raise RPCError(Code.INVALID_ARGUMENT, f"no container {name!r}") from None

    def prepare(self, hostname: str, storages: Iterable[Any]) -> None:
        """Take the host name of all containers, and mount what they need, until the sandbox is destroyed.

        Args:
            hostname: That of each container with a UTS namespace, in place of its own; empty for its own.
            storages: What to mount.

        Raises:
            RPCError: It could not be mounted.
        """
        self._mounts.append(Mounts(storages))
        self._hostname = hostname

    def create(self, request: Any, done: Done) -> None:
        """Make a container as a ``grpc.CreateContainerRequest`` has it.

        Raises:
            RPCError: There is one of that name, it cannot be a name, or what it needs could not be mounted.
        """
        name = request.container_id
        if not _NAME.fullmatch(name):
            raise RPCError(Code.INVALID_ARGUMENT, f"{name!r} cannot be the name of a container")
        if name in self._containers:
            raise RPCError(Code.ALREADY_EXISTS, f"there is a container {name!r}")
        if self._hostname and any(namespace.Type == "uts" for namespace in request.OCI.Linux.Namespaces):
            request.OCI.Hostname = self._hostname
        container = self._containers[name] = Container(self._tools, name, request, lambda: self._killed(name))

        def created(failure: str | None) -> None:
            if failure is None:
                done(None)
            else:
                del self._containers[name]
                container.close(lambda: done(failure))

        container.create(created)

    def remove(self, name: str, done: Done) -> None:
        """Take a container away, with all that runs in it."""
        self[name].remove(lambda: self._forget(name), done)

    def _forget(self, name: str) -> None:
        del self._containers[name]

    def destroy(self, done: Done) -> None:
        """Take all containers away."""
        failures: list[str] = []
        left = [name for name, container in self._containers.items() if container.state in _COMPLETE]
        count = len(left)

        def removed(failure: str | None) -> None:
            nonlocal count
            count -= 1
            failures.extend([failure] if failure is not None else [])
            if count == 0:
                self._release()
                done("; ".join(failures) or None)

        if not left:
            self._release()
            done(None)
        for name in left:
            self.remove(name, removed)

    def _release(self) -> None:
        while self._mounts:
            self._mounts.pop().close()

    # --- Out of memory

    def next_oom(self, call: Call) -> None:
        """Answer a call with the next event; each event is told once."""
        self._oom_waiters.append(call)
        self._deliver()

    def _killed(self, name: str) -> None:
        self._oom_events.append(name)
        self._deliver()

    def _deliver(self) -> None:
        while self._oom_events and self._oom_waiters:
            call = self._oom_waiters.popleft()
            if not call.answered:
                self._tell_oom(call, self._oom_events.popleft())

    def prune(self) -> None:
        """Forget calls that nobody waits for any more."""
        self._oom_waiters = deque(call for call in self._oom_waiters if not call.answered)
        for container in self._containers.values():
            container.prune()


_COMPLETE = (State.CREATED, State.STARTED)
