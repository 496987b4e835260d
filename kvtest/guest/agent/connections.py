# SPDX-License-Identifier: Apache-2.0
"""The clients of an agent: as many as come over vsock, one at a time over a virtio-serial port."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
from collections.abc import Callable

from kvtest.deadline import Deadline
from kvtest.errors import FrameError
from kvtest.guest.reactor import Reactor, Writer
from kvtest.rpc.server import Connection, Services

_CHUNK = 1 << 18
# A client that does not read its answers is not served any more: hundreds of calls may be in one piece of what it sent.
_MOST_UNREAD = 1 << 20
_FIRST_CALL = b"\0\0\0\1\1\0"  # of a frame's header: stream 1, a request, no flags
_ABSENCE = 1.0
_PORTS = "/sys/class/virtio-ports"
Say = Callable[[str], None]


class Clients:
    """All connections.

    Args:
        reactor: Watches them.
        services: What they can call.
        gone: Called when a client has gone.
        say: Takes lines for the log.
    """

    def __init__(self, reactor: Reactor, services: Services, gone: Callable[[], None], say: Say) -> None:
        self._reactor = reactor
        self._services = services
        self._gone = gone
        self._say = say
        self._listeners: list[socket.socket] = []
        self._clients: set[Client] = set()
        self._serial: SerialChannel | None = None

    def listen(self, listener: socket.socket) -> None:
        """Take clients from a listening socket."""
        listener.setblocking(False)
        self._listeners.append(listener)
        self._reactor.watch(listener.fileno(), selectors.EVENT_READ, lambda: self._accept(listener))

    def serve_port(self, name: str) -> bool:
        """Take clients from a virtio-serial port, if the machine has it."""
        device = _device(name)
        if device is not None and self._serial is None:
            self._serial = SerialChannel(self._reactor, device, self._services, self._gone, self._say)
        return self._serial is not None

    def expire(self) -> float | None:
        """Fail the calls whose deadline has passed; return the seconds until the next."""
        connections: list[Connection | SerialChannel] = [client.connection for client in self._clients]
        if self._serial is not None:
            connections.append(self._serial)
        return min((left for left in (each.expire() for each in connections) if left is not None), default=None)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            stream, _ = listener.accept()
            self._clients.add(Client(self._reactor, stream, self._services, self._closed, self._say))

    def _closed(self, client: Client) -> None:
        self._clients.discard(client)
        self._gone()


class Client:
    """One client.

    Args:
        reactor: Watches its socket.
        stream: The socket.
        services: What it can call.
        closed: Called once when it has gone.
        say: Takes lines for the log.
    """

    def __init__(
        self,
        reactor: Reactor,
        stream: socket.socket,
        services: Services,
        closed: Callable[[Client], None],
        say: Say,
    ) -> None:
        stream.setblocking(False)
        self._reactor = reactor
        self._stream = stream
        self._closed = closed
        self._say = say
        self._open = True
        self._writer = Writer(reactor, stream.fileno(), lambda _error: self.close())
        self.connection = Connection(services, self._send, self._has_enough)
        self._listen()

    def close(self) -> None:
        """End the connection."""
        if self._open:
            self._open = False
            self._reactor.forget(self._stream.fileno())
            self._stream.close()
            self.connection.close()
            self._closed(self)

    def _listen(self) -> None:
        if self._open:
            self._reactor.watch(self._stream.fileno(), selectors.EVENT_READ, self._read)

    def _send(self, data: bytes) -> None:
        if self._open:
            self._writer.write(data)

    def _read(self) -> None:
        try:
            data = self._stream.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._serve(data)

    def _has_enough(self) -> bool:
        return self._open and self._writer.buffered > _MOST_UNREAD

    def _serve(self, data: bytes) -> None:
        try:
            self.connection.feed(data)
        except FrameError as error:
            self._say(f"a client is turned away: {error.message}")
            self.close()
            return
        if self._has_enough():
            self._reactor.watch(self._stream.fileno(), selectors.EVENT_READ, None)
            self._writer.write(b"", self._go_on)

    def _go_on(self) -> None:
        if self._open:
            self._serve(b"")
            if not self._has_enough():
                self._listen()


class SerialChannel:
    """Clients on a virtio-serial port, one after the other.

    Whoever comes next on the host's side of a port is not announced: the kernel tells that nobody is connected, but not
    when the next one was quick, and its bytes may be there before that. A read gives the bytes of one client only,
    though, and a client calls its first stream 1 and never does so again: a read that begins with such a frame is of
    another client. What nobody follows is given up when nobody has been connected for a second.

    Args:
        reactor: Watches the port.
        device: Its device file.
        services: What clients can call.
        gone: Called when a client has gone.
        say: Takes lines for the log.
    """

    def __init__(self, reactor: Reactor, device: str, services: Services, gone: Callable[[], None], say: Say) -> None:
        self._services = services
        self._gone = gone
        self._say = say
        self._descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        # Edge-triggered: as long as nobody is connected, the port is ready all the time.
        self._epoll = select.epoll()
        self._epoll.register(self._descriptor, select.EPOLLIN | select.EPOLLHUP | select.EPOLLET)
        self._absent: Deadline | None = None
        self._state = select.poll()
        self._state.register(self._descriptor, 0)
        self._writer = Writer(reactor, self._descriptor, lambda _error: self._reset())
        self.connection = Connection(services, self._writer.write)
        reactor.watch(self._epoll.fileno(), selectors.EVENT_READ, self._ready)

    def _ready(self) -> None:
        self._epoll.poll(0)
        while True:
            try:
                data = os.read(self._descriptor, _CHUNK)
            except BlockingIOError:
                break
            if not data:
                break
            self._feed(data)
        if self._absent is None and self._nobody_is_there():
            self._absent = Deadline(_ABSENCE)

    def expire(self) -> float | None:
        """Fail the calls whose deadline has passed, or whose client has; return the seconds until the next."""
        left = self.connection.expire()
        if self._absent is not None and not self._nobody_is_there():
            self._absent = None
        if self._absent is None:
            return left
        if self._absent.expired:
            self._reset()
            return None
        return min(seconds for seconds in (left, self._absent.remaining) if seconds is not None)

    def _nobody_is_there(self) -> bool:
        return any(event & select.POLLHUP for _, event in self._state.poll(0))

    def _feed(self, data: bytes) -> None:
        if data[4:10] == _FIRST_CALL:
            self._reset()
        try:
            self.connection.feed(data)
        except FrameError as error:
            self._say(f"on the serial port: {error.message}")
            self._reset()

    def _reset(self) -> None:
        self._absent = None
        self.connection.close()
        self._writer.discard()
        self.connection = Connection(self._services, self._writer.write)
        self._gone()


def _device(name: str) -> str | None:
    """Return the device file of a virtio-serial port."""
    for device in os.listdir(_PORTS) if os.path.isdir(_PORTS) else []:
        with contextlib.suppress(FileNotFoundError), open(f"{_PORTS}/{device}/name", encoding="utf-8") as stream:
            if stream.read().strip() == name and os.path.exists(f"/dev/{device}"):
                return f"/dev/{device}"
    return None
