# SPDX-License-Identifier: Apache-2.0
"""Python functions in a guest, run whole or step by step."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any

from kvtest.control.requests import Requests
from kvtest.control.shipping import ship
from kvtest.deadline import Deadline
from kvtest.errors import ConnectionLostError, GuestError, RemoteFunctionError, StateError
from kvtest.rpc.client import PendingCall

# What a function that is run step by step returns: it yields replies and is sent requests.
Steps = Generator[Any, Any, Any]


class Task:
    """A function that runs in a guest.

    Args:
        requests: The channel.
        function: The function.
        arguments: Its arguments: JSON values and bytes.
        deadline: When to give up waiting for its first answer.
    """

    def __init__(
        self,
        requests: Requests,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        deadline: Deadline | float | None = None,
    ) -> None:
        self.name = function.__name__
        self._requests = requests
        self._finished = False
        document, _ = requests.send("Function", {**ship(function), "arguments": list(arguments)}, deadline=deadline)
        self._number: int = document["function"]
        self.pid: int = document["pid"]
        self._running: PendingCall | None = None
        self.ready: Any = self.send(None, deadline)

    @property
    def finished(self) -> bool:
        """Whether it has returned or raised."""
        return self._finished

    def send(self, value: Any = None, deadline: Deadline | float | None = None) -> Any:
        """Resume it with a value and return what it yields next, or what it returns.

        Raises:
            RemoteFunctionError: It raised.
            GuestError: Its process ended.
            StateError: It has finished, or an earlier step has not been answered.
        """
        self.resume(value)
        return self.answer(deadline)

    def resume(self, value: Any = None) -> None:
        """Resume it with a value and let it run; :meth:`answer` waits for what comes of it, if anything should.

        Raises:
            StateError: It has finished, or an earlier step has not been answered.
        """
        if self._finished:
            raise StateError(f"{self.name} has finished", hint="start it again")
        if self._running is not None:
            raise StateError(f"{self.name} is running", hint="take its answer() first")
        self._running = self._requests.begin("Step", {"function": self._number, "value": value}, b"", Deadline(None))

    def answer(self, deadline: Deadline | float | None = None) -> Any:
        """Wait for what it yields next, or returns, after :meth:`resume`; raises as :meth:`send` does."""
        if self._running is None:
            raise StateError(f"{self.name} is not running", hint="resume() it first")
        limit = Deadline.of(self._requests.timeout if deadline is None else deadline)
        document, _ = self._requests.receive(self._running, limit)
        self._running = None
        if "yielded" in document:
            return document["yielded"]
        self._finished = True
        if "raised" in document:
            raise RemoteFunctionError(
                f"{self.name} raised {document['raised']}: {document['message']}", traceback=document["traceback"]
            )
        return document["returned"]

    def close(self) -> None:
        """Kill it if it runs, with the processes that it started."""
        with contextlib.suppress(ConnectionLostError, GuestError):  # the guest is gone, or it has been tidied
            self._requests.send("Kill", {"function": self._number})

    def __enter__(self) -> Task:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Service:
    """A vsock listener in a guest that runs a function for each connection.

    Args:
        task: The function that listens.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self.port = int(task.ready)

    def close(self) -> None:
        """Stop listening and end the connections."""
        self._task.close()

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def serve_vsock(handler: dict[str, Any], port: int, backlog: int) -> Steps:
    """Listen on a vsock port and run a handler in a thread for each connection; runs in the guest.

    Args:
        handler: A function as :func:`ship` returns it.
        port: The port, or ``VMADDR_PORT_ANY``.
        backlog: Length of the listen queue.

    Yields:
        The port.
    """
    from kvtest.guest.functions import load

    function = load(handler)
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, port))
    listener.listen(backlog)

    def handle(connection: socket.socket) -> None:
        with connection:
            function(connection)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
