# SPDX-License-Identifier: Apache-2.0
"""The vhost-user protocol, from the back-end's side (QEMU, docs/interop/vhost-user.rst)."""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from kvtest.vsock.device.faults import DeviceFaultError, Fault
from kvtest.vsock.device.memory import RegionDescription
from kvtest.vsock.device.queue import Addresses

_HEADER = struct.Struct("<III")
_VERSION, _VERSION_MASK, _REPLY, NEED_REPLY = 1, 3, 4, 8
_LONGEST = 4096
_MOST_DESCRIPTORS = 8
NO_DESCRIPTOR = 1 << 8  # in the payload of SET_VRING_KICK and SET_VRING_CALL

VIRTIO_F_VERSION_1 = 1 << 32
PROTOCOL_FEATURES = 1 << 30
PROTOCOL_REPLY_ACK = 1 << 3
PROTOCOL_CONFIG = 1 << 9


class Kind(IntEnum):
    """The front-end's requests that a vsock device meets."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    GET_CONFIG = 24


class Message(NamedTuple):
    """A request of the front-end.

    Args:
        kind: What is asked; a number where it is none of :class:`Kind`.
        flags: Its flags.
        payload: Its data.
        descriptors: What came with it; whoever takes the message closes them.
    """

    kind: int
    flags: int
    payload: bytes
    descriptors: list[int]

    def close(self) -> None:
        """Close the descriptors that came with it."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()


def receive(connection: socket.socket) -> Message | None:
    """Return the next message, or ``None`` at the end of the connection.

    The front-end sends each message whole, so this blocks at most for the time of its copy.

    Raises:
        DeviceFaultError: It is malformed.
    """
    ancillary = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
    header, messages, flags, _ = connection.recvmsg(_HEADER.size, ancillary, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in messages:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    message = Message(0, 0, b"", list(descriptors))
    try:
        if not header:
            return None
        header += _exactly(connection, _HEADER.size - len(header))
        number, bits, size = _HEADER.unpack(header)
        if bits & _VERSION_MASK != _VERSION or size > _LONGEST or flags & socket.MSG_CTRUNC:
            raise DeviceFaultError(Fault.BAD_MESSAGE, f"request {number}, flags {bits:#x}, {size} bytes")
        payload = _exactly(connection, size)
    except BaseException:
        message.close()
        raise
    return message._replace(kind=number, flags=bits, payload=payload)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise DeviceFaultError(Fault.BAD_MESSAGE, f"it ended {size - len(data)} bytes early")
        data += part
    return data


def reply(connection: socket.socket, request: Message, payload: bytes) -> None:
    """Answer a request."""
    connection.sendall(_HEADER.pack(request.kind, _VERSION | _REPLY, len(payload)) + payload)


def u64(message: Message) -> int:
    """Return the payload as one number."""
    (value,) = _unpack("<Q", message)
    return value


def vring_state(message: Message) -> tuple[int, int]:
    """Return the payload of a message about one queue: its index, and a number."""
    index, number = _unpack("<II", message)
    return index, number


def vring_addresses(message: Message) -> tuple[int, Addresses]:
    """Return the payload of SET_VRING_ADDR: the queue's index, and where its parts are."""
    index, _flags, descriptors, used, available, _log = _unpack("<IIQQQQ", message)
    return index, Addresses(descriptors, available, used)


def memory_table(message: Message) -> Sequence[RegionDescription]:
    """Return the payload of SET_MEM_TABLE."""
    rows = struct.Struct("<QQQQ")
    if len(message.payload) < 8:
        raise DeviceFaultError(Fault.BAD_MESSAGE, "a memory table without a count")
    (count,) = struct.unpack_from("<I", message.payload)
    if count != len(message.descriptors) or len(message.payload) != 8 + count * rows.size:
        raise DeviceFaultError(
            Fault.BAD_MESSAGE,
            f"a memory table of {count} regions in {len(message.payload)} bytes with "
            f"{len(message.descriptors)} descriptors",
        )
    return [RegionDescription(*rows.unpack_from(message.payload, 8 + row * rows.size)) for row in range(count)]


def config_range(message: Message) -> tuple[int, int]:
    """Return the payload of GET_CONFIG: offset and size of what is asked for."""
    if len(message.payload) < 12:
        raise DeviceFaultError(Fault.BAD_MESSAGE, "a request for the configuration without a range")
    offset, size, _flags = struct.unpack_from("<III", message.payload)
    return offset, size


def _unpack(layout: str, message: Message) -> tuple[int, ...]:
    if len(message.payload) != struct.calcsize(layout):
        raise DeviceFaultError(Fault.BAD_MESSAGE, f"request {message.kind} with {len(message.payload)} bytes")
    return struct.unpack(layout, message.payload)
