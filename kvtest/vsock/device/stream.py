# SPDX-License-Identifier: Apache-2.0
"""A connection together with the host process's socket."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Sequence

from kvtest.vsock.device.connection import Connection, State
from kvtest.vsock.packet import Operation, Packet, Shutdown

_NO_MORE = (BrokenPipeError, ConnectionResetError)


class Stream:
    """A connection and its host socket.

    Args:
        connection: The connection.
        host: The host process's socket, non-blocking.
        greet: Whether the host process waits for the answer to its ``CONNECT``.
    """

    def __init__(self, connection: Connection, host: socket.socket, *, greet: bool) -> None:
        self.connection = connection
        self.host = host
        self.descriptor = host.fileno()
        self.interest: int | None = 0  # what the event loop waits for; None for nothing, not even the end
        self.hung_up = False  # the host process is gone; what it left may still be in the socket
        self.out_of_buffers = False  # has data for the guest, which gave us no room in its queue
        self._greet = greet
        self._unsent = bytearray()

    @property
    def wanted(self) -> int | None:
        """What the event loop should wait for; ``None`` if not even the end, which epoll tells over and over."""
        connection = self.connection
        events = select.EPOLLOUT if self._unsent else 0
        if connection.host_may_send and connection.credit and not self.out_of_buffers:
            events |= select.EPOLLIN
        return None if self.hung_up and not events else events

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do for the host process."""
        if self.connection.state is State.CLOSED or self.connection.guest_done is Shutdown.BOTH:
            return not self._unsent
        return False

    def packet(self, packet: Packet) -> list[Packet]:
        """Take a packet from the guest, other than RW; return the answers."""
        connection = self.connection
        before = connection.state
        answers = connection.receive(packet)
        if before is State.REQUESTED and connection.state is State.ESTABLISHED and self._greet:
            answers += self._write(b"OK %d\n" % connection.host_port, counted=False)
        if connection.guest_done & Shutdown.SEND and not self._unsent:
            self._end_host(socket.SHUT_WR)
        if connection.guest_done & Shutdown.RECEIVE:
            self._end_host(socket.SHUT_RD)
        return answers

    def data(self, packet: Packet, pieces: Sequence[memoryview]) -> list[Packet]:
        """Take an RW packet from the guest; return the answers."""
        if not self.connection.receive_data(packet):
            return [packet.reset()] if self.connection.state is State.CLOSED else []
        answers = []
        for piece in pieces:
            answers += self._write(piece)
        return answers

    def writable(self) -> list[Packet]:
        """Go on with what the host process had no room for; return the answers."""
        data, self._unsent = self._unsent, bytearray()
        answers = self._write(data)
        if self.connection.guest_done & Shutdown.SEND and not self._unsent:
            self._end_host(socket.SHUT_WR)
        return answers

    def _write(self, data: bytes | bytearray | memoryview, *, counted: bool = True) -> list[Packet]:
        if self.connection.host_done & Shutdown.RECEIVE:
            return []
        sent = 0
        if not self._unsent:
            try:
                sent = self.host.send(data)
            except BlockingIOError:
                pass
            except _NO_MORE:
                return self.ended(Shutdown.RECEIVE)
        self._unsent += data[sent:]
        update = self.connection.forward(sent) if counted and sent else None
        return [update] if update is not None else []

    def ended(self, directions: Shutdown) -> list[Packet]:
        """Note that the host process will no longer send, or receive; return what tells the guest."""
        if directions & Shutdown.RECEIVE:
            self._unsent.clear()
        packet = self.connection.host_ended(directions)
        return [packet] if packet is not None and self.connection.state is not State.REQUESTED else []

    def _end_host(self, how: int) -> None:
        with contextlib.suppress(OSError):  # the host process may be gone
            self.host.shutdown(how)

    def reset(self) -> Packet:
        """Return the packet that ends the connection at once."""
        self.connection.state = State.CLOSED
        return self.connection.packet(Operation.RST)

    def close(self) -> None:
        """Close the host socket."""
        self.host.close()
