# SPDX-License-Identifier: Apache-2.0
"""One process of a container: its state, its streams, and how it ended."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from kvtest.deadline import Deadline
from kvtest.errors import KvtestError, RPCError
from kvtest.rpc.status import Code
from kvtest.runtime.reference.machine import Machine
from kvtest.runtime.reference.streams import Input, Output

LOST = 255  # exit status of a process whose machine is gone
_NEVER = Deadline(None)
_KILLED = 137
DRAIN_SECONDS = 2.0
"""How long the end of a process waits for its output to be read."""
_SCHEMES = {"stdin": ("fifo",), "stdout": ("fifo", "file"), "stderr": ("fifo", "file")}


class Status(IntEnum):
    """The states of the Task API."""

    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4


@frozen
class Stdio:
    """Where a process's streams go.

    Args:
        stdin: A fifo, or nothing.
        stdout: A fifo, or nothing.
        stderr: A fifo, or nothing.
        terminal: Whether it has a terminal, which is one stream for both outputs.
    """

    stdin: str
    stdout: str
    stderr: str
    terminal: bool

    @classmethod
    def of(cls, request: Any) -> Stdio:
        """Return what a request says that creates a process."""
        return cls(request.stdin, request.stdout, request.stderr, request.terminal)

    def check(self) -> None:
        """Refuse what no stream can go to.

        Raises:
            RPCError: A stream has a URI of another kind than ours, or one without an absolute path.
        """
        for name, kinds in _SCHEMES.items():
            place = getattr(self, name)
            uri = urlsplit(place)
            if uri.scheme and not (uri.scheme in kinds and uri.path.startswith("/")):
                known = " or ".join(f"{kind}:///PATH" for kind in kinds)
                raise RPCError(Code.INVALID_ARGUMENT, f"{name} cannot be {place}: give it a fifo's path, {known}")

    def fields(self) -> dict[str, Any]:
        """Return the fields of an answer that tell them, by which clients attach."""
        return {"stdin": self.stdin, "stdout": self.stdout, "stderr": self.stderr, "terminal": self.terminal}


class Process:
    """A process.

    Args:
        machine: The pod's machine.
        container: Its container.
        name: Its own name; empty for the container's first.
        stdio: Where its streams go.
        exited: Called once with it when it has ended.
    """

    def __init__(
        self, machine: Machine, container: str, name: str, stdio: Stdio, exited: Callable[[Process], None]
    ) -> None:
        self.name = name
        self.stdio = stdio
        self.specification: Mapping[str, Any] = {}  # of one that is started beside the first
        self.status = Status.CREATED
        self.exit_status = 0
        self.exited_at = 0  # nanoseconds since the epoch
        #: Held while it is taken from one state to another: of two clients that ask for that at once, one gets it.
        self.changing = threading.Lock()
        self.ran = False
        self._machine = machine
        self._names = {"container_id": container, "exec_id": name}
        self._exited = exited
        self._told = False
        self._waiting: weakref.WeakSet[threading.Event] = weakref.WeakSet()  # one that nobody waits for is gone
        self._lock = threading.Lock()
        self._outputs: list[Output] = []
        self._input: Input | None = None

    def open(self) -> None:
        """Open its streams, before it exists in the guest.

        Raises:
            RPCError: One of them cannot be opened.
        """
        try:
            self._outputs.append(Output("ReadStdout", self.stdio.stdout, **self._names))
            if not self.stdio.terminal:
                self._outputs.append(Output("ReadStderr", self.stdio.stderr, **self._names))
            if self.stdio.stdin:
                self._input = Input(self.stdio.stdin, **self._names)
        except OSError as error:
            self.close()
            raise RPCError(Code.INVALID_ARGUMENT, f"could not open {error.filename}: {error.strerror}") from error

    def attach(self) -> None:
        """Begin to carry its streams: it exists in the guest."""
        agent = self._machine.agent
        for output in self._outputs:
            output.begin(agent)
        if self._input is not None:
            self._input.begin(agent)

    def started(self) -> None:
        """Take its start, and wait for its end on a thread."""
        self.ran = True
        self.turn(Status.CREATED, Status.RUNNING)
        threading.Thread(target=self._await, name=f"wait {self._names}", daemon=True).start()

    def _await(self) -> None:
        try:
            status = self._machine.agent.call("WaitProcess", _NEVER, **self._names).status
        except KvtestError:  # the machine is gone, which somebody else notices too
            return
        self.drain()  # containerd's clients read no more once they know of the end
        self.ended(status)

    def ended(self, status: int, *, told: bool = True) -> None:
        """Take its end; the first one counts.

        Args:
            status: Its exit status.
            told: Whether it is told to others than those who wait for it.
        """
        with self._lock:
            if self.status is Status.STOPPED:
                return
            self.status, self.exit_status, self.exited_at = Status.STOPPED, status, time.time_ns()
        if told:
            self._exited(self)
        with self._lock:
            self._told = True
            waiting = list(self._waiting)
        for event in waiting:
            event.set()

    def turn(self, before: Status, after: Status) -> None:
        """Take its change from one state to another, unless it is in a third by now, such as ended."""
        with self._lock:
            if self.status is before:
                self.status = after

    def waiter(self) -> threading.Event:
        """Return what is set when it has ended, for one who waits."""
        event = threading.Event()
        with self._lock:
            if self._told:
                event.set()
            self._waiting.add(event)
        return event

    def close_input(self) -> None:
        """End its input."""
        if self._input is not None:
            self._input.end()

    def give_up(self) -> None:
        """Take that it will not be started any more."""
        if not self.ran:
            self.ended(_KILLED, told=False)

    def drain(self, deadline: Deadline | None = None) -> None:
        """Wait until its output has been carried away, as far as somebody reads it.

        Args:
            deadline: When to give that up, if it is not to have the whole time.
        """
        deadline = deadline or Deadline(DRAIN_SECONDS)
        for output in self._outputs:
            output.join(deadline)
        self.close_input()

    def close(self) -> None:
        """Let go of its output, which nobody can come for any more."""
        for output in self._outputs:
            output.close()
        if self._input is not None:
            self._input.close()

    def require(self, *allowed: Status) -> None:
        """Refuse what its state does not allow.

        Raises:
            RPCError: It is in another state.
        """
        if self.status not in allowed:
            state = self.status.name.lower()
            raise RPCError(Code.FAILED_PRECONDITION, f"{self._names['container_id']} {self.name} is {state}")

    def require_life(self) -> None:
        """Refuse what can be done only with a process that has not ended.

        Raises:
            RPCError: It has.
        """
        if self.status is Status.STOPPED:
            raise RPCError(Code.NOT_FOUND, f"{self._names['container_id']} {self.name}: the process has ended")

    def stamp(self) -> dict[str, Any]:
        """Return the fields that tell how it ended; none while it runs."""
        if self.status is not Status.STOPPED:
            return {}
        seconds, nanos = divmod(self.exited_at, 10**9)
        return {"exit_status": self.exit_status, "exited_at": {"seconds": seconds, "nanos": nanos}}
