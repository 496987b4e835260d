# SPDX-License-Identifier: Apache-2.0
"""Host sockets of a hybrid vsock, as Firecracker documents them (docs/vsock.md).

The host talks to a guest's ports through Unix sockets: it connects to one path and names a port, and the guest's own
connections arrive at that path with ``_PORT`` behind it.
"""

from __future__ import annotations

import socket
from pathlib import Path

from kvtest.deadline import Deadline
from kvtest.errors import TransportError
from kvtest.vsock.host import Listener, Vsock

_LONGEST_ANSWER = 32


class HybridVsock(Vsock):
    """The vsock of one guest, seen from the host.

    Args:
        path: The Unix socket of its device.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def connect(self, port: int, timeout: float = 10.0) -> socket.socket:
        """See :class:`kvtest.vsock.Vsock`."""
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
        except FileNotFoundError:
            connection.close()
            raise ConnectionRefusedError(f"there is no {self.path}: the guest is gone, or has never been") from None
        except ConnectionError:
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

    def listen(self, port: int, backlog: int = 128, timeout: float = 10.0) -> Listener:
        """See :class:`kvtest.vsock.Vsock`."""
        path = Path(f"{self.path}_{port}")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            listener.listen(backlog)
        except OSError as error:
            listener.close()
            raise TransportError(f"could not listen on {path}: {error.strerror}") from error
        return Listener(listener, timeout, lambda: path.unlink(missing_ok=True))


def _read_line(connection: socket.socket) -> bytes:
    # A byte at a time: what follows the line belongs to whoever connected.
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < _LONGEST_ANSWER:
        byte = connection.recv(1)
        if not byte:
            break
        line += byte
    return bytes(line)
