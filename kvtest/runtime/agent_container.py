# SPDX-License-Identifier: Apache-2.0
"""A container of an agent, and its processes, as one client sees them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from kvtest.errors import ConnectionLostError, RPCError
from kvtest.runtime.agent_spec import process_fields

if TYPE_CHECKING:
    from kvtest.deadline import Deadline
    from kvtest.rpc.api import Pending
    from kvtest.runtime.agent import Agent

    Patience = Deadline | float | None

_PIECE = 64 << 10


class Process:
    """A process of a container.

    Args:
        agent: The connection that is used.
        container: The container.
        name: What it is called; the empty string is the container's first.
    """

    def __init__(self, agent: Agent, container: str, name: str) -> None:
        self.agent = agent
        self._ids = {"container_id": container, "exec_id": name}

    def begin(self, method: str, deadline: Patience = None, **fields: Any) -> Pending:
        """Send a call that concerns it without waiting for the answer."""
        return self.agent.begin(method, deadline, **self._ids, **fields)

    def signal(self, number: signal.Signals, deadline: Patience = None) -> None:
        """Send it a signal."""
        self.agent.call("SignalProcess", deadline, **self._ids, signal=int(number))

    def kill(self, deadline: Patience = None) -> None:
        """Send it SIGKILL."""
        self.signal(signal.SIGKILL, deadline)

    def wait(self, deadline: Patience = None) -> int:
        """Return its exit status, once it has ended."""
        return int(self.agent.call("WaitProcess", deadline, **self._ids).status)

    def write(self, data: bytes, deadline: Patience = None) -> int:
        """Write to its input and return how many bytes that were, once it has taken them."""
        return int(self.agent.call("WriteStdin", deadline, **self._ids, data=data).len)

    def close_input(self, deadline: Patience = None) -> None:
        """End its input."""
        self.agent.call("CloseStdin", deadline, **self._ids)

    def resize(self, rows: int, columns: int, deadline: Patience = None) -> None:
        """Change the size of its terminal."""
        self.agent.call("TtyWinResize", deadline, **self._ids, row=rows, column=columns)

    def read(self, stream: str = "stdout", size: int = _PIECE, deadline: Patience = None) -> bytes:
        """Return the next bytes of an output stream.

        Args:
            stream: ``stdout`` or ``stderr``.
            size: The most bytes.
            deadline: When to give up.

        No bytes are the end of the stream for some agents; others refuse.

        Raises:
            RPCError: The stream has ended.
        """
        method = "ReadStdout" if stream == "stdout" else "ReadStderr"
        return bytes(self.agent.call(method, deadline, **self._ids, len=size).data)

    def read_all(self, stream: str = "stdout", deadline: Patience = None) -> bytes:
        """Return everything up to the end of an output stream, which agents tell by a status or by no bytes."""
        from kvtest.deadline import Deadline

        limit = Deadline.of(self.agent.endpoint.timeout if deadline is None else deadline)
        collected = bytearray()
        while True:
            try:
                data = self.read(stream, deadline=limit)
            except ConnectionLostError:
                raise
            except RPCError:
                data = b""
            if not data:
                return bytes(collected)
            collected += data

    def read_until(self, ending: bytes, deadline: Patience = None) -> bytes:
        """Return what it writes up to and with some bytes, and whatever came with them.

        Raises:
            EOFError: The output ended before, which the agent told by no bytes.
            RPCError: The output ended before, which the agent told by a status.
        """
        from kvtest.deadline import Deadline

        limit = Deadline.of(self.agent.endpoint.timeout if deadline is None else deadline)
        collected = bytearray()
        while ending not in collected:
            data = self.read(deadline=limit)
            if not data:
                raise EOFError(f"the output ended without {ending!r}; it was {bytes(collected[-200:])!r}")
            collected += data
        return bytes(collected)


class Container(Process):
    """A container; what a process can be asked is asked of its first.

    Args:
        agent: The connection that is used.
        name: Its ID.
    """

    def __init__(self, agent: Agent, name: str) -> None:
        super().__init__(agent, name, "")
        self.name = name

    def over(self, agent: Agent) -> Container:
        """Return the same container over another connection."""
        return Container(agent, self.name)

    def process(self, name: str) -> Process:
        """Return a process that somebody has started in it."""
        return Process(self.agent, self.name, name)

    def start(self, deadline: Patience = None) -> None:
        """Let its first process run."""
        self.agent.call("StartContainer", deadline, container_id=self.name)

    def execute(self, name: str, argv: list[str], *, deadline: Patience = None, **options: Any) -> Process:
        """Start another process in it.

        Args:
            name: What to call it.
            argv: Program and arguments.
            deadline: When to give up.
            **options: See :func:`kvtest.runtime.agent_spec.process_fields`.
        """
        fields = process_fields(argv, **options)
        self.agent.call("ExecProcess", deadline, container_id=self.name, exec_id=name, process=fields)
        return Process(self.agent, self.name, name)

    def pause(self, deadline: Patience = None) -> None:
        """Stop all of its processes."""
        self.agent.call("PauseContainer", deadline, container_id=self.name)

    def resume(self, deadline: Patience = None) -> None:
        """Let its processes go on."""
        self.agent.call("ResumeContainer", deadline, container_id=self.name)

    def update(self, deadline: Patience = None, **resources: Any) -> None:
        """Change its limits.

        Args:
            deadline: When to give up.
            **resources: Fields of ``grpc.LinuxResources``.
        """
        self.agent.call("UpdateContainer", deadline, container_id=self.name, resources=resources)

    def statistics(self, deadline: Patience = None) -> Any:
        """Return its ``grpc.StatsContainerResponse``."""
        return self.agent.call("StatsContainer", deadline, container_id=self.name)

    def remove(self, deadline: Patience = None) -> None:
        """Remove it, with all that runs in it."""
        self.agent.call("RemoveContainer", deadline, container_id=self.name)
