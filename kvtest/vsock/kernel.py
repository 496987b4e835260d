# SPDX-License-Identifier: Apache-2.0
"""Host sockets of the host kernel's vhost-vsock: AF_VSOCK itself (vsock(7))."""

from __future__ import annotations

import errno
import socket

from kvtest.deadline import Deadline
from kvtest.errors import HostError, TransportError
from kvtest.vsock.host import Listener, Vsock
from kvtest.vsock.reservation import is_reserved


class KernelVsock(Vsock):
    """The vsock of one guest, seen from the host.

    Args:
        cid: The guest's address.
    """

    def __init__(self, cid: int) -> None:
        self.cid = cid

    def connect(self, port: int, timeout: float = 10.0) -> socket.socket:
        """See :class:`kvtest.vsock.Vsock`.

        Raises:
            HostError: The host kernel's vhost-vsock is not there, so a socket might lead anywhere.
        """
        deadline = Deadline(timeout)
        if not is_reserved(self.cid):
            raise ConnectionRefusedError(f"port {port} of the guest refused the connection: the guest is gone")
        connection = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect((self.cid, port))
        except TimeoutError:
            connection.close()
            raise deadline.exceeded(f"the guest to accept a connection to port {port}") from None
        except OSError as error:
            connection.close()
            if error.errno not in (errno.ECONNRESET, errno.ECONNREFUSED, errno.ENODEV, errno.EHOSTUNREACH):
                raise TransportError(f"could not connect to port {port} of the guest: {error.strerror}") from error
            # The kernel tells of a reset where other families tell of a refusal.
            raise ConnectionRefusedError(f"port {port} of the guest refused the connection: {error.strerror}") from None
        except BaseException:
            connection.close()
            raise
        return connection

    def listen(self, port: int, backlog: int = 128, timeout: float = 10.0) -> Listener:
        """See :class:`kvtest.vsock.Vsock`."""
        if not is_reserved(self.cid):
            raise HostError("the guest is gone: nobody will connect")
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            listener.bind((socket.VMADDR_CID_HOST, port))
            listener.listen(backlog)
        except OSError as error:
            listener.close()
            raise TransportError(f"could not listen on port {port} of the host: {error.strerror}") from error
        return _OfOneGuest(listener, timeout, self.cid)


class _OfOneGuest(Listener):
    """Accepts what one guest connects; what others do is none of its business."""

    def __init__(self, listener: socket.socket, timeout: float, cid: int) -> None:
        super().__init__(listener, timeout)
        self._cid = cid

    def accept(self) -> socket.socket:
        """See :class:`kvtest.vsock.Listener`."""
        while True:
            connection = super().accept()
            if connection.getpeername()[0] == self._cid:
                return connection
            connection.close()
