# SPDX-License-Identifier: Apache-2.0
"""Moves packets between the guest's queues and the streams.

Nothing here grows without bound: data waits in the sender's socket or in the guest's memory, and the guest's packets
are not taken while too many answers to earlier ones wait for room in its queue.
"""

from __future__ import annotations

import fcntl
import itertools
import re
import select
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from kvtest.vsock.device.connection import Connection, State
from kvtest.vsock.device.faults import DeviceFaultError, Fault
from kvtest.vsock.device.queue import Chain, VirtQueue
from kvtest.vsock.device.rings import Ring
from kvtest.vsock.device.stream import Stream
from kvtest.vsock.packet import HEADER, HOST_CID, STREAM, Operation, Packet, Shutdown

_CONNECT = re.compile(rb"CONNECT (\d{1,10})\n")
_LONGEST_GREETING = 32
_FIRST_HOST_PORT = 1 << 30
_PORTS = 1 << 32
_MOST_ANSWERS = 1024
_BATCH = 32  # buffers of the guest that are filled with one system call
_LARGEST_PACKET = 64 * 1024  # VIRTIO_VSOCK_MAX_PKT_BUF_SIZE of Linux
_HEADER_SIZE = HEADER.size
_LARGEST_CHAIN = 1 << 20  # of buffers for one packet; Linux makes them as large as the packet
_MOST_VIEWS = 1024  # IOV_MAX (readv(2))
_INT = struct.Struct("i")

Watch = Callable[..., None]


class Switch:
    """The streams of one guest.

    Args:
        guest_cid: The guest's address.
        hybrid_path: Path of the host's socket; the guest's connections go to it with ``_PORT`` behind.
        watch: Waits for a descriptor's events.
    """

    def __init__(self, guest_cid: int, hybrid_path: Path, watch: Watch) -> None:
        self.attached = False  # whether there is a VMM; its guest may be paused, or may not have come so far
        self.receive_ring: Ring | None = None
        self.transmit_ring: Ring | None = None
        self.streams: dict[tuple[int, int], Stream] = {}
        self._guest_cid = guest_cid
        self._hybrid_path = hybrid_path
        self._watch = watch
        self._host_ports = itertools.count(_FIRST_HOST_PORT)
        self._answers: deque[Packet] = deque()  # to the guest; they go before data
        self._greeting: dict[int, tuple[socket.socket, bytes]] = {}  # and what they have said so far
        self._starved: set[Stream] = set()  # have data, for which the guest has given no buffers

    # --- Host processes

    def greet(self, client: socket.socket) -> None:
        """Take a new host process, which is to say what port it wants."""
        self._greeting[client.fileno()] = client, b""
        self._watch(client.fileno(), select.EPOLLIN, lambda _events: self._read_greeting(client))

    def _read_greeting(self, client: socket.socket) -> None:
        # Only the line is taken: what follows it belongs to the stream.
        try:
            start = client.recv(_LONGEST_GREETING, socket.MSG_PEEK)
        except ConnectionResetError:
            start = b""
        descriptor = client.fileno()
        _, before = self._greeting[descriptor]
        line, end, _ = (before + start).partition(b"\n")
        if start and not end and len(line) < _LONGEST_GREETING:
            self._greeting[descriptor] = client, before + client.recv(len(start))
            return
        self._watch(descriptor, -1)
        del self._greeting[descriptor]
        found = _CONNECT.fullmatch(line + end)
        if found is None or int(found[1]) >= _PORTS or not self.attached:
            client.close()
            return
        client.recv(found.end() - len(before))
        connection = Connection(self._guest_cid, self._free_host_port(), int(found[1]), State.REQUESTED)
        self._add(Stream(connection, client, greet=True))
        self._answers.append(connection.packet(Operation.REQUEST))
        self._send_answers()

    def _free_host_port(self) -> int:
        used = {host_port for host_port, _ in self.streams}
        return next(port for port in self._host_ports if port not in used) % _PORTS

    def _add(self, stream: Stream) -> None:
        connection = stream.connection
        self.streams[connection.key] = stream
        self._watch(stream.descriptor, 0, lambda events: self._host_ready(stream, events))

    def _host_ready(self, stream: Stream, events: int) -> None:
        if events & select.EPOLLOUT:
            self._answers += stream.writable()
        # Without a wish to read, only the end of the host process is told: by HUP, over and over.
        if events & select.EPOLLIN:
            self._fill(stream, events)
        elif events & (select.EPOLLHUP | select.EPOLLERR):
            self._host_gone(stream)
        self._send_answers()
        self._look_after(stream)

    def _host_gone(self, stream: Stream) -> None:
        stream.hung_up = True
        if stream.connection.state is State.REQUESTED:
            self._answers.append(stream.reset())
        elif not stream.connection.host_may_send:
            self._answers += stream.ended(Shutdown.BOTH)
        # Otherwise it may have left data, which comes before the end, when there is room for it.

    # --- Guest

    def run(self) -> None:
        """Move what can be moved, after the guest has given buffers or packets."""
        self._send_answers()
        self._transmit()
        self._send_answers()
        if self._starved and self._room():
            starved, self._starved = self._starved, set()
            for stream in starved:
                stream.out_of_buffers = False
                if stream.connection.key in self.streams:
                    self._look_after(stream)

    def _room(self) -> bool:
        ring = self.receive_ring
        return ring is not None and ring.queue is not None and self._available(ring, ring.queue) > 0

    def _transmit(self) -> None:
        """Take the guest's packets."""
        ring = self.transmit_ring
        queue = ring.queue if ring is not None else None
        if ring is None or queue is None:
            return
        taken = 0
        queue.notify_me(False)
        while True:
            while queue.pending() and len(self._answers) < _MOST_ANSWERS:
                chain = queue.peek(0)
                self._take(chain.buffers)
                queue.complete(chain.head, 0)
                taken += 1
                if taken % _BATCH == 0:
                    self._send_answers()
            queue.notify_me(True)
            ring.barrier()
            if not queue.pending() or len(self._answers) >= _MOST_ANSWERS:
                break
            queue.notify_me(False)
        if taken and queue.publish():
            ring.interrupt()

    def _take(self, buffers: list[memoryview]) -> None:
        head, rest = buffers[0], buffers[1:]
        # Descriptors may name the same memory again and again: a chain can be far larger than the guest.
        if (total := sum(map(len, buffers))) > _LARGEST_CHAIN:
            raise DeviceFaultError(Fault.WRONG_LENGTH, f"a packet of {total} bytes")
        if len(head) < _HEADER_SIZE:
            joined = b"".join(buffers)
            if total < _HEADER_SIZE:
                raise DeviceFaultError(Fault.SHORT_BUFFER, f"{total} bytes to send")
            head, rest = memoryview(joined), []
        packet = Packet.decode(head)
        pieces = ([head[_HEADER_SIZE:]] if len(head) > _HEADER_SIZE else []) + rest
        size = total - _HEADER_SIZE
        if packet.length > size or packet.length > _LARGEST_PACKET:
            raise DeviceFaultError(Fault.WRONG_LENGTH, f"{packet.length} bytes in a buffer of {size}")
        if packet.length and packet.operation == Operation.RW and packet.length < size:
            pieces = [memoryview(b"".join(pieces))[: packet.length]]
        self._route(packet, pieces)

    def _route(self, packet: Packet, pieces: Sequence[memoryview]) -> None:
        stream = self.streams.get((packet.destination_port, packet.source_port))
        ours = packet.destination_cid == HOST_CID and packet.source_cid == self._guest_cid and packet.type == STREAM
        if stream is None or not ours:
            if ours and packet.operation == Operation.REQUEST:
                self._accept(packet)
            elif packet.operation != Operation.RST:
                self._answers.append(packet.reset())
            return
        if packet.operation == Operation.RW:
            self._answers += stream.data(packet, pieces)
        else:
            self._answers += stream.packet(packet)
        self._look_after(stream)

    def _accept(self, request: Packet) -> None:
        """Connect the guest to the host process that listens on the port, or refuse."""
        host = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            host.connect(f"{self._hybrid_path}_{request.destination_port}")
        except OSError:  # nobody listens, or its queue is full
            host.close()
            self._answers.append(request.reset())
            return
        connection = Connection(self._guest_cid, request.destination_port, request.source_port, State.ESTABLISHED)
        connection.take_credit(request)
        self._answers.append(connection.packet(Operation.RESPONSE))
        stream = Stream(connection, host, greet=False)
        self._add(stream)
        self._look_after(stream)

    def _send_answers(self) -> None:
        """Put packets without data into the guest's queue, as far as it has room."""
        ring = self.receive_ring
        queue = ring.queue if ring is not None else None
        if ring is None or queue is None:
            return
        sent = 0
        while self._answers and self._available(ring, queue):
            self._put(queue, self._answers.popleft())
            sent += 1
        if sent and queue.publish():
            ring.interrupt()

    def _put(self, queue: VirtQueue, packet: Packet) -> None:
        chain = queue.peek(0)
        if len(chain.buffers[0]) < _HEADER_SIZE:
            raise DeviceFaultError(Fault.SHORT_BUFFER, f"{len(chain.buffers[0])} bytes for a header")
        chain.buffers[0][:_HEADER_SIZE] = packet.encode()
        queue.complete(chain.head, _HEADER_SIZE)

    def _available(self, ring: Ring, queue: VirtQueue) -> int:
        """Return how many buffers the guest has given; where there are none, ask it to tell of the next."""
        count = queue.pending()
        if count == 0:
            queue.notify_me(True)
            ring.barrier()
            count = queue.pending()
        if count:
            queue.notify_me(False)
        return count

    def _fill(self, stream: Stream, events: int) -> None:
        """Move data from a host process straight into the guest's buffers."""
        ring = self.receive_ring
        queue = ring.queue if ring is not None else None
        connection = stream.connection
        if not connection.host_may_send:
            return
        if ring is None or queue is None:  # the guest is paused: the data waits until it gives buffers again
            self._starve(stream)
            return
        self._send_answers()  # what was to come before this data
        count = min(_BATCH, self._available(ring, queue))
        if self._answers or not count:
            self._starve(stream)
            return
        chains: list[tuple[Chain, int]] = []
        views: list[memoryview] = []
        # No more buffers than there is data for; at its end a stream has none, and one buffer finds out.
        room = min(connection.credit, max(1, _waiting(stream.host)))
        for position in range(count):
            if room <= 0:
                break
            chain = queue.peek(position)
            if len(views) + len(chain.buffers) > _MOST_VIEWS and views:
                break
            size = _add_space(chain.buffers, room, views)
            chains.append((chain, size))
            room -= size
        try:
            received = stream.host.recvmsg_into(views)[0] if views else -1
        except BlockingIOError:
            received = -1
        except ConnectionResetError:
            received = 0
        if received == 0:
            # A peer that is gone shows as HUP, one that ended its side does not (poll(2)).
            stream.hung_up = bool(events & (select.EPOLLHUP | select.EPOLLERR))
            self._answers += stream.ended(Shutdown.BOTH if stream.hung_up else Shutdown.SEND)
        elif received > 0:
            connection.sent(received)
            header, length = b"", 0
            for chain, size in chains:
                if received <= 0:
                    break
                if length != min(size, received):  # most are of one size
                    length = min(size, received)
                    header = connection.packet(Operation.RW, length).encode()
                chain.buffers[0][:_HEADER_SIZE] = header
                queue.complete(chain.head, _HEADER_SIZE + length)
                received -= length
            if queue.publish():
                ring.interrupt()

    def _starve(self, stream: Stream) -> None:
        stream.out_of_buffers = True
        self._starved.add(stream)

    # --- Streams

    def _look_after(self, stream: Stream) -> None:
        """Wait for what a stream waits for, or end it."""
        if stream.finished:
            self._end(stream)
            return
        wanted = stream.wanted
        if wanted == stream.interest:
            return
        if wanted is None:
            self._watch(stream.descriptor, -1)
        elif stream.interest is None:
            self._watch(stream.descriptor, wanted, lambda events: self._host_ready(stream, events))
        else:
            self._watch(stream.descriptor, wanted)
        stream.interest = wanted

    def _end(self, stream: Stream) -> None:
        connection = stream.connection
        if connection.state is not State.CLOSED:  # the guest ended both sides: a reset confirms it (5.10.6.5)
            self._answers.append(stream.reset())
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        if stream.interest is not None:
            self._watch(stream.descriptor, -1)
        self._starved.discard(stream)
        del self.streams[stream.connection.key]
        stream.close()

    def close_all(self) -> None:
        """End every stream: the guest is gone, or nothing that we know of it can be trusted any more."""
        streams = list(self.streams.values())
        self.streams.clear()  # first: whoever sees an end may count what is left
        self._starved.clear()
        for stream in streams:
            self._watch(stream.descriptor, -1)
            stream.close()
        for descriptor, (client, _) in list(self._greeting.items()):
            self._watch(descriptor, -1)
            client.close()
        self._greeting.clear()
        self._answers.clear()


def _waiting(stream: socket.socket) -> int:
    """Return the bytes that can be read at once (unix(7), SIOCINQ)."""
    (size,) = _INT.unpack(fcntl.ioctl(stream, termios.FIONREAD, _INT.pack(0)))
    return int(size)


def _add_space(buffers: list[memoryview], limit: int, views: list[memoryview]) -> int:
    """Add to ``views`` where data of at most ``limit`` bytes goes, behind the header; return how much that is.

    Raises:
        DeviceFaultError: There is no room for a header and data.
    """
    if len(buffers[0]) < _HEADER_SIZE:
        raise DeviceFaultError(Fault.SHORT_BUFFER, f"{len(buffers[0])} bytes for a header")
    left = limit = min(limit, _LARGEST_PACKET)
    skip = _HEADER_SIZE
    for buffer in buffers[:_MOST_VIEWS]:
        piece = buffer[skip : skip + left]
        skip = 0
        if piece:
            views.append(piece)
            left -= len(piece)
    if left == limit:
        raise DeviceFaultError(Fault.SHORT_BUFFER, f"{sum(map(len, buffers))} bytes for a header and data")
    return limit - left
