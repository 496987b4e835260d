# SPDX-License-Identifier: Apache-2.0
"""What every vsock of a guest offers to the host, whoever carries it."""

from __future__ import annotations

import abc
import contextlib
import socket
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import overload


class Vsock(abc.ABC):
    """The vsock of one guest, seen from the host."""

    @abc.abstractmethod
    def connect(self, port: int, timeout: float = 10.0) -> socket.socket:
        """Connect to a port of the guest.

        Args:
            port: The port.
            timeout: Seconds for the connection and, until changed, for each operation on it.

        Raises:
            ConnectionRefusedError: Nobody listens on the port, or the guest is gone.
            DeadlineExceededError: The guest did not answer.
            TransportError: The device did not speak as it should.
        """

    @abc.abstractmethod
    def listen(self, port: int, backlog: int = 128, timeout: float = 10.0) -> Listener:
        """Listen for connections that the guest makes to a port of the host.

        Args:
            port: The port.
            backlog: Length of the listen queue.
            timeout: Seconds for each ``accept`` and, until changed, for operations on what it returns.

        Raises:
            TransportError: Somebody listens there already.
        """

    def connect_many(self, port: int, count: int, timeout: float = 10.0) -> Clients:
        """Connect several clients to one port; all are closed at the end of the ``with`` block."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(self.connect(port, timeout)) for _ in range(count)]
            return Clients(clients, stack.pop_all())


class Clients(Sequence[socket.socket]):
    """Connected clients, closed together.

    Args:
        connections: The clients.
        stack: Closes them.
    """

    def __init__(self, connections: Sequence[socket.socket], stack: contextlib.ExitStack) -> None:
        self._connections = connections
        self._stack = stack

    @overload
    def __getitem__(self, index: int) -> socket.socket: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[socket.socket]: ...
    def __getitem__(self, index: int | slice) -> socket.socket | Sequence[socket.socket]:
        return self._connections[index]

    def __len__(self) -> int:
        return len(self._connections)

    def __enter__(self) -> Clients:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()


class Listener:
    """Accepts what the guest connects to one port of the host.

    Args:
        listener: A socket that listens; it is closed with this.
        timeout: Seconds for each ``accept``.
        closed: Called after it was closed.
    """

    def __init__(self, listener: socket.socket, timeout: float, closed: Callable[[], None] = lambda: None) -> None:
        self._socket = listener
        self._timeout = timeout
        self._closed = closed
        listener.settimeout(timeout)

    def accept(self) -> socket.socket:
        """Return the next connection.

        Raises:
            TimeoutError: None came.
        """
        connection, _ = self._socket.accept()
        connection.settimeout(self._timeout)
        return connection

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        self._closed()

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
