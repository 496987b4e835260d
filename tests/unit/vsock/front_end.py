# SPDX-License-Identifier: Apache-2.0
"""A vhost-user front-end and a guest's driver in one: what QEMU and Linux do, in the test's hands.

It speaks the real protocol over the real socket, with real shared memory; only nothing checks what it writes.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from pathlib import Path

from kvtest.deadline import Deadline
from kvtest.vsock.device.vhost_user import Kind
from kvtest.vsock.packet import HEADER, HOST_CID, STREAM, Operation, Packet

GUEST_CID = 3
MEMORY = 4 << 20
GUEST_BASE = 0x10_0000
USER_BASE = 0x7F00_0000_0000
SIZE = 64  # of each queue
BUFFER = 4096
NEXT, WRITE, INDIRECT = 1, 2, 4
RX, TX = 0, 1
SLOTS, SLOT = 16, 0x1_0000  # for packets to the device


class FrontEnd:
    """A VMM with a guest, connected to a device.

    Args:
        path: The device's socket.
        start: Whether to set the queues up.
    """

    def __init__(self, path: Path, *, start: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.file = os.memfd_create("guest")
        os.ftruncate(self.file, MEMORY)
        self.kicks = [os.eventfd(0), os.eventfd(0)]
        self.calls = [os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)]
        self.available = [0, 0]
        self.seen = [0, 0]
        self.allocation = 256 * 1024
        self.forwarded = 0
        if start:
            self.set_up()

    # --- Protocol

    def send(self, kind: int, payload: bytes = b"", descriptors: list[int] | None = None, flags: int = 1) -> None:
        message = struct.pack("<III", kind, flags, len(payload)) + payload
        socket.send_fds(self.socket, [message], descriptors or [])

    def ask(self, kind: int, payload: bytes = b"") -> bytes:
        self.send(kind, payload)
        _, _, size = struct.unpack("<III", self.exactly(12))
        return self.exactly(size)

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def set_up(self, size: int = SIZE) -> None:
        features = struct.unpack("<Q", self.ask(Kind.GET_FEATURES))[0]
        self.send(Kind.SET_FEATURES, struct.pack("<Q", features))
        self.send(Kind.SET_OWNER)
        self.set_memory()
        for queue in (RX, TX):
            self.start_queue(queue, size, 0)
        self.ask(Kind.GET_FEATURES)  # all of the above has been handled
        for number in range(SIZE - 1):
            self.offer_buffer(number)

    def start_queue(self, queue: int, size: int, base: int) -> None:
        self.send(Kind.SET_VRING_NUM, struct.pack("<II", queue, size))
        self.send(Kind.SET_VRING_BASE, struct.pack("<II", queue, base))
        table, available, used = (USER_BASE + self.ring(queue) + part for part in (0, 0x4000, 0x8000))
        self.send(Kind.SET_VRING_ADDR, struct.pack("<IIQQQQ", queue, 0, table, used, available, 0))
        self.send(Kind.SET_VRING_KICK, struct.pack("<Q", queue), [self.kicks[queue]])
        self.send(Kind.SET_VRING_CALL, struct.pack("<Q", queue), [self.calls[queue]])
        self.send(Kind.SET_VRING_ENABLE, struct.pack("<II", queue, 1))

    def pause(self) -> None:
        """Stop the queues, as a VMM does whose guest is paused."""
        answers = (self.ask(Kind.GET_VRING_BASE, struct.pack("<II", queue, 0)) for queue in (RX, TX))
        self.bases = [struct.unpack("<II", answer)[1] for answer in answers]

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        for queue in (RX, TX):
            self.start_queue(queue, SIZE, self.bases[queue])

    def set_memory(self, size: int = MEMORY, descriptors: list[int] | None = None) -> None:
        table = struct.pack("<IIQQQQ", 1, 0, GUEST_BASE, size, USER_BASE, 0)
        self.send(Kind.SET_MEM_TABLE, table, descriptors if descriptors is not None else [self.file])

    # --- Memory; offsets are from its start

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self.file, data, offset)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.file, size, offset)

    @staticmethod
    def ring(queue: int) -> int:
        return 0x1_0000 * (1 + queue)

    def descriptor(self, queue: int, index: int, address: int, length: int, flags: int, following: int = 0) -> None:
        self.write(self.ring(queue) + 16 * index, struct.pack("<QIHH", address, length, flags, following))

    def make_available(self, queue: int, head: int) -> None:
        ring = self.ring(queue) + 0x4000
        self.write(ring + 4 + 2 * (self.available[queue] % SIZE), struct.pack("<H", head))
        self.available[queue] += 1
        self.write(ring + 2, struct.pack("<H", self.available[queue] & 0xFFFF))

    def kick(self, queue: int) -> None:
        os.eventfd_write(self.kicks[queue], 1)

    # --- Driver

    def offer_buffer(self, number: int) -> None:
        self.descriptor(RX, number, GUEST_BASE + 0x10_0000 + number * BUFFER, BUFFER, WRITE)
        self.make_available(RX, number)
        self.kick(RX)

    def transmit(self, packet: Packet, data: bytes = b"") -> None:
        """Give the device a packet; waits while all places for packets are taken."""
        self.wait_used(TX, self.available[TX] - SLOTS + 1)
        slot = self.available[TX] % SLOTS
        place = 0x20_0000 + slot * SLOT
        self.write(place, packet.encode() + data)
        self.descriptor(TX, 2 * slot, GUEST_BASE + place, HEADER.size, NEXT if data else 0, 2 * slot + 1)
        if data:
            self.descriptor(TX, 2 * slot + 1, GUEST_BASE + place + HEADER.size, len(data), 0)
        self.make_available(TX, 2 * slot)
        self.kick(TX)

    def wait_used(self, queue: int, count: int) -> None:
        """Wait until the device has used so many chains of a queue."""
        deadline = Deadline(20.0)
        poll = select.poll()
        poll.register(self.calls[queue], select.POLLIN)
        while struct.unpack("<H", self.read(self.ring(queue) + 0x8002, 2))[0] < count:
            if not poll.poll(deadline.remaining_ms):
                raise deadline.exceeded(f"{count} used chains")
            os.eventfd_read(self.calls[queue])

    def receive(self) -> tuple[Packet, bytes]:
        """Return the next packet that the device sent."""
        self.wait_used(RX, self.seen[RX] + 1)
        ring = self.ring(RX) + 0x8000
        head, length = struct.unpack("<II", self.read(ring + 4 + 8 * (self.seen[RX] % SIZE), 8))
        self.seen[RX] += 1
        content = self.read(0x10_0000 + head * BUFFER, length)
        self.offer_buffer(head)
        packet = Packet.decode(content)
        return packet, content[HEADER.size :][: packet.length]

    def poll_packet(self) -> Packet | None:
        """Return the next packet if one has come."""
        ring = self.ring(RX) + 0x8000
        if struct.unpack("<H", self.read(ring + 2, 2))[0] == self.seen[RX] & 0xFFFF:
            return None
        return self.receive()[0]

    def packet(self, operation: int, host_port: int, guest_port: int, **fields: int) -> Packet:
        values = {"length": 0, "type": STREAM, "flags": 0, "source_cid": GUEST_CID, "destination_cid": HOST_CID}
        values |= {"buffer_allocation": self.allocation, "forward_count": self.forwarded}
        values |= {"source_port": guest_port, "destination_port": host_port, "operation": operation}
        return Packet(**(values | fields))

    def accept(self) -> Packet:
        """Accept the connection that a host process asks for; return its request."""
        request, _ = self.receive()
        assert request.operation == Operation.REQUEST
        self.transmit(self.packet(Operation.RESPONSE, request.source_port, request.destination_port))
        return request

    def close(self) -> None:
        self.socket.close()
        for descriptor in (self.file, *self.kicks, *self.calls):
            os.close(descriptor)
