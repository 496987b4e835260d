# SPDX-License-Identifier: Apache-2.0
"""Host sockets of a hybrid vsock, as Firecracker documents them (docs/vsock.md).

The host talks to a guest's ports through Unix sockets: it connects to one path and names a port, and the guest's own
connections arrive at that path with ``_PORT`` behind it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import overload

from kvtest.deadline import Deadline
from kvtest.errors import TransportError

_LONGEST_ANSWER = 32


class HybridVsock:
    """The vsock of one guest, seen from the host.

    Args:
        path: The Unix socket of its device.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

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
        deadline = Deadline(timeout)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(str(self.path))
            connection.sendall(b"CONNECT %d\n" % port)
            answer = _read_line(connection)
        except TimeoutError:
            connection.close()
            raise deadline.exceeded(f"the guest to accept a connection to port {port}") from None
        except (FileNotFoundError, ConnectionError):
            connection.close()
            raise ConnectionRefusedError(
                f"port {port} of the guest refused the connection: the guest is gone"
            ) from None
        except BaseException:
            connection.close()
            raise
        if not answer:
            connection.close()
            raise ConnectionRefusedError(f"port {port} of the guest refused the connection")
        if not answer.startswith(b"OK "):
            connection.close()
            raise TransportError(f"the vsock device answered CONNECT {port} with {answer!r}")
        return connection

    def connect_many(self, port: int, count: int, timeout: float = 10.0) -> Clients:
        """Connect several clients to one port; all are closed at the end of the ``with`` block."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(self.connect(port, timeout)) for _ in range(count)]
            return Clients(clients, stack.pop_all())

    def listen(self, port: int, backlog: int = 128, timeout: float = 10.0) -> Listener:
        """Listen for connections that the guest makes to a port of the host.

        Args:
            port: The port.
            backlog: Length of the listen queue.
            timeout: Seconds for each ``accept`` and, until changed, for operations on what it returns.

        Raises:
            TransportError: Somebody listens there already.
        """
        return Listener(Path(f"{self.path}_{port}"), backlog, timeout)


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
        path: The Unix socket to make.
        backlog: Length of the listen queue.
        timeout: Seconds for each ``accept``.
    """

    def __init__(self, path: Path, backlog: int, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(str(path))
            self._socket.listen(backlog)
        except OSError as error:
            self._socket.close()
            raise TransportError(f"could not listen on {path}: {error.strerror}") from error
        self._socket.settimeout(timeout)

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
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _read_line(connection: socket.socket) -> bytes:
    # A byte at a time: what follows the line belongs to whoever connected.
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < _LONGEST_ANSWER:
        byte = connection.recv(1)
        if not byte:
            break
        line += byte
    return bytes(line)
