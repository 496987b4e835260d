# SPDX-License-Identifier: Apache-2.0
"""A guest, or a VMM, that breaks every rule: named faults, and nothing worse."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable

import pytest

from kvtest.peers import ended_within
from kvtest.vsock import HybridVsock
from kvtest.vsock.device import DeviceFaultError, Fault, VsockDevice
from kvtest.vsock.device.vhost_user import Kind
from kvtest.vsock.packet import HEADER, Operation

from .front_end import GUEST_BASE, INDIRECT, MEMORY, NEXT, RX, SIZE, TX, USER_BASE, WRITE, FrontEnd

INSIDE = GUEST_BASE + 0x20_0000


def out_of_range_head(guest: FrontEnd) -> None:
    guest.make_available(TX, SIZE)


def out_of_range_next(guest: FrontEnd) -> None:
    guest.descriptor(TX, 0, INSIDE, 44, NEXT, 0xFFFF)
    guest.make_available(TX, 0)


def loop(guest: FrontEnd) -> None:
    guest.descriptor(TX, 0, INSIDE, 44, NEXT, 1)
    guest.descriptor(TX, 1, INSIDE, 44, NEXT, 0)
    guest.make_available(TX, 0)


def index_jump(guest: FrontEnd) -> None:
    guest.write(guest.ring(TX) + 0x4002, struct.pack("<H", guest.available[TX] + SIZE + 1))


def many_times_the_same(guest: FrontEnd) -> None:
    """A packet of many times the guest's memory, none of it out of range."""
    guest.descriptor(TX, 0, INSIDE, 1, NEXT, 1)
    for index in range(1, SIZE - 2):
        guest.descriptor(TX, index, GUEST_BASE, MEMORY, NEXT, index + 1)
    guest.descriptor(TX, SIZE - 2, GUEST_BASE, MEMORY, 0)
    guest.make_available(TX, 0)


def below_memory(guest: FrontEnd) -> None:
    guest.descriptor(TX, 0, GUEST_BASE - 1, 44, 0)
    guest.make_available(TX, 0)


def across_the_end(guest: FrontEnd) -> None:
    guest.descriptor(TX, 0, GUEST_BASE + MEMORY - 43, 44, 0)
    guest.make_available(TX, 0)


def wrapping(guest: FrontEnd) -> None:
    guest.descriptor(TX, 0, (1 << 64) - 22, 44, 0)
    guest.make_available(TX, 0)


def huge(guest: FrontEnd) -> None:
    guest.descriptor(TX, 0, INSIDE, 0xFFFFFFFF, 0)
    guest.make_available(TX, 0)


def indirect(guest: FrontEnd) -> None:
    guest.descriptor(TX, 0, INSIDE, 44, INDIRECT)
    guest.make_available(TX, 0)


def writable_to_send(guest: FrontEnd) -> None:
    guest.descriptor(TX, 0, INSIDE, 44, WRITE)
    guest.make_available(TX, 0)


def short_header(guest: FrontEnd) -> None:
    guest.descriptor(TX, 0, INSIDE, 43, 0)
    guest.make_available(TX, 0)


def longer_than_its_buffer(guest: FrontEnd) -> None:
    guest.transmit(guest.packet(Operation.RW, 1, 2, length=6), b"short")


def longer_than_any(guest: FrontEnd) -> None:
    guest.write(0x20_0000, guest.packet(Operation.RW, 1, 2, length=0x10001).encode())
    guest.descriptor(TX, 0, INSIDE, 44 + 0x10001, 0)
    guest.make_available(TX, 0)


RINGS = [
    (out_of_range_head, Fault.DESCRIPTOR_OUT_OF_RANGE),
    (out_of_range_next, Fault.DESCRIPTOR_OUT_OF_RANGE),
    (loop, Fault.DESCRIPTOR_LOOP),
    (index_jump, Fault.AVAILABLE_INDEX_JUMP),
    (below_memory, Fault.ADDRESS_OUTSIDE_MEMORY),
    (across_the_end, Fault.ADDRESS_OUTSIDE_MEMORY),
    (wrapping, Fault.ADDRESS_OUTSIDE_MEMORY),
    (many_times_the_same, Fault.WRONG_LENGTH),
    (huge, Fault.ADDRESS_OUTSIDE_MEMORY),
    (indirect, Fault.INDIRECT_DESCRIPTOR),
    (writable_to_send, Fault.WRONG_DIRECTION),
    (short_header, Fault.SHORT_BUFFER),
    (longer_than_its_buffer, Fault.WRONG_LENGTH),
    (longer_than_any, Fault.WRONG_LENGTH),
]


def fault_of(device: VsockDevice, guest: FrontEnd) -> Fault:
    """Wait until the device has dropped the guest, and return why."""
    guest.socket.settimeout(20)
    assert guest.socket.recv(1) == b""
    assert isinstance(device.fault, DeviceFaultError), device.fault
    return device.fault.fault


@pytest.mark.parametrize(("attack", "fault"), RINGS, ids=[attack.__name__ for attack, _ in RINGS])
def test_a_broken_ring_is_a_named_fault(
    device: VsockDevice, front_end: FrontEnd, hybrid: HybridVsock, attack: Callable[[FrontEnd], None], fault: Fault
) -> None:
    with hybrid.listen(9) as listener:
        front_end.transmit(front_end.packet(Operation.REQUEST, 9, 1))
        connection = listener.accept()
    front_end.receive()
    front_end.available[TX] = struct.unpack("<H", front_end.read(front_end.ring(TX) + 0x4002, 2))[0]
    attack(front_end)
    front_end.kick(TX)
    assert fault_of(device, front_end) is fault
    assert ended_within([connection], 20) == 1
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        hybrid.connect(9)


@pytest.mark.parametrize(
    ("length", "flags", "fault"), [(43, WRITE, Fault.SHORT_BUFFER), (44, 0, Fault.WRONG_DIRECTION)]
)
def test_a_bad_receive_buffer_is_a_named_fault(
    device: VsockDevice, front_end: FrontEnd, length: int, flags: int, fault: Fault
) -> None:
    for number in range(SIZE):
        front_end.descriptor(RX, number, GUEST_BASE + 0x10_0000, length, flags)
    front_end.transmit(front_end.packet(Operation.RW, 5, 6))  # its answer needs a buffer
    assert fault_of(device, front_end) is fault


def test_a_buffer_without_room_for_data_is_a_named_fault(
    device: VsockDevice, front_end: FrontEnd, hybrid: HybridVsock
) -> None:
    with hybrid.listen(9) as listener:
        front_end.transmit(front_end.packet(Operation.REQUEST, 9, 1))
        connection = listener.accept()
    front_end.receive()
    for number in range(SIZE):
        front_end.descriptor(RX, number, GUEST_BASE + 0x10_0000, HEADER.size, WRITE)
    connection.sendall(b"data")
    assert fault_of(device, front_end) is Fault.SHORT_BUFFER
    connection.close()


def vring(queue: int, number: int) -> bytes:
    return struct.pack("<II", queue, number)


def addresses(table: int, used: int, available: int) -> bytes:
    return struct.pack("<IIQQQQ", 0, 0, table, used, available, 0)


MESSAGES: list[tuple[str, int, bytes, Fault]] = [
    ("unknown request", 77, b"", Fault.BAD_MESSAGE),
    ("short payload", Kind.SET_VRING_NUM, b"abc", Fault.BAD_MESSAGE),
    ("no such queue", Kind.SET_VRING_NUM, vring(7, 64), Fault.BAD_QUEUE),
    ("no such queue to kick", Kind.SET_VRING_KICK, struct.pack("<Q", 0x107), Fault.BAD_QUEUE),
    ("feature not offered", Kind.SET_FEATURES, struct.pack("<Q", 1 << 28), Fault.BAD_MESSAGE),
    ("memory without files", Kind.SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, 0, 4096, 0, 0), Fault.BAD_MESSAGE),
    ("memory without rows", Kind.SET_MEM_TABLE, struct.pack("<II", 3, 0), Fault.BAD_MESSAGE),
    ("configuration of 4 GB", Kind.GET_CONFIG, struct.pack("<III", 0, 0xFFFFFFFF, 0), Fault.BAD_MESSAGE),
    ("kick without eventfd", Kind.SET_VRING_KICK, struct.pack("<Q", 0), Fault.BAD_MESSAGE),
]


@pytest.mark.parametrize(
    ("kind", "payload", "fault"), [case[1:] for case in MESSAGES], ids=[case[0] for case in MESSAGES]
)
def test_a_bad_message_is_a_named_fault(device: VsockDevice, kind: int, payload: bytes, fault: Fault) -> None:
    guest = FrontEnd(device.vhost_path, start=False)
    guest.send(kind, payload)
    assert fault_of(device, guest) is fault
    guest.close()


@pytest.mark.parametrize("size", [0, 3, 65536])
def test_a_queue_of_an_impossible_size(device: VsockDevice, size: int) -> None:
    guest = FrontEnd(device.vhost_path, start=False)
    with pytest.raises((EOFError, ConnectionError)):
        guest.set_up(size)
    assert isinstance(device.fault, DeviceFaultError)
    assert device.fault.fault is Fault.BAD_QUEUE
    guest.close()


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (addresses(USER_BASE - 4096, USER_BASE, USER_BASE), Fault.ADDRESS_OUTSIDE_MEMORY),
        (addresses(USER_BASE + 8, USER_BASE, USER_BASE), Fault.BAD_QUEUE),
        (addresses(USER_BASE, USER_BASE + MEMORY - 4, USER_BASE), Fault.ADDRESS_OUTSIDE_MEMORY),
    ],
)
def test_a_queue_that_is_not_in_memory(device: VsockDevice, payload: bytes, fault: Fault) -> None:
    guest = FrontEnd(device.vhost_path, start=False)
    guest.set_memory()
    guest.send(Kind.SET_VRING_NUM, vring(0, SIZE))
    guest.send(Kind.SET_VRING_ADDR, payload)
    guest.send(Kind.SET_VRING_ENABLE, vring(0, 1))
    guest.send(Kind.SET_VRING_KICK, struct.pack("<Q", 0), [guest.kicks[0]])
    assert fault_of(device, guest) is fault
    guest.close()


def test_memory_that_is_shorter_than_it_says(device: VsockDevice) -> None:
    guest = FrontEnd(device.vhost_path, start=False)
    guest.set_memory(MEMORY + 1)
    assert fault_of(device, guest) is Fault.BAD_MEMORY_TABLE
    guest.close()


def test_memory_that_overlaps(device: VsockDevice) -> None:
    guest = FrontEnd(device.vhost_path, start=False)
    rows = struct.pack("<QQQQ", GUEST_BASE, 8192, USER_BASE, 0) + struct.pack("<QQQQ", GUEST_BASE + 4096, 4096, 0, 0)
    guest.send(Kind.SET_MEM_TABLE, struct.pack("<II", 2, 0) + rows, [guest.file, guest.file])
    assert fault_of(device, guest) is Fault.BAD_MEMORY_TABLE
    guest.close()


def test_an_oversized_message(device: VsockDevice) -> None:
    guest = FrontEnd(device.vhost_path, start=False)
    guest.socket.sendall(struct.pack("<III", Kind.SET_MEM_TABLE, 1, 1 << 30))
    assert fault_of(device, guest) is Fault.BAD_MESSAGE
    guest.close()


@pytest.mark.parametrize("seed", range(40))
def test_random_rings_end_in_faults_and_nothing_else(device: VsockDevice, hybrid: HybridVsock, seed: int) -> None:
    chance = random.Random(seed)
    guest = FrontEnd(device.vhost_path)
    # A packet that is whole, so that the mess is not always turned away at the door.
    guest.write(
        0x20_0000, guest.packet(chance.choice(list(Operation)), 9, 1, length=chance.choice([0, 1, 99])).encode()
    )
    with hybrid.listen(9):
        for _ in range(50):
            queue = chance.choice([RX, TX])
            address = chance.choice(
                [INSIDE, GUEST_BASE, GUEST_BASE + MEMORY - chance.randrange(64), chance.getrandbits(64)]
            )
            length = chance.choice([0, 43, 44, 200, 4096, chance.getrandbits(32)])
            flags = chance.choice([0, WRITE, WRITE, NEXT, chance.randrange(8)])
            guest.descriptor(queue, chance.randrange(SIZE), address, length, flags, chance.randrange(SIZE + 2))
            guest.make_available(queue, chance.randrange(SIZE))
            guest.kick(queue)
    guest.close()
    assert device.fault is None or isinstance(device.fault, DeviceFaultError), device.fault
    later = FrontEnd(device.vhost_path)  # the device lives, and serves the next guest
    later.transmit(later.packet(Operation.RW, 5, 6))
    assert later.receive()[0].operation == Operation.RST
    later.close()


@pytest.mark.parametrize("seed", range(40))
def test_random_messages_end_in_faults_and_nothing_else(device: VsockDevice, seed: int) -> None:
    chance = random.Random(seed)
    guest = FrontEnd(device.vhost_path, start=False)
    try:
        for _ in range(30):
            payload = chance.randbytes(chance.choice([0, 4, 8, 12, 40, 100]))
            if chance.random() < 0.5:
                payload = struct.pack("<II", chance.randrange(3), chance.choice([0, 1, 64])) + payload
            descriptors = [guest.file] * chance.choice([0, 0, 1, 2])
            guest.send(chance.choice([*Kind, 0, 200]), payload, descriptors)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it was turned away
    guest.close()
    later = FrontEnd(device.vhost_path)
    later.transmit(later.packet(Operation.RW, 5, 6))
    assert later.receive()[0].operation == Operation.RST
    later.close()
    assert device.fault is None or isinstance(device.fault, DeviceFaultError), device.fault


def test_no_descriptor_stays_open(device: VsockDevice) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    FrontEnd(device.vhost_path).close()
    before = None
    for _ in range(20):
        guest = FrontEnd(device.vhost_path)
        guest.send(77, b"", [guest.file])
        fault_of(device, guest)
        guest.close()
        before = before or count()
    assert count() == before
