# SPDX-License-Identifier: Apache-2.0
"""The header of a virtio-vsock packet (virtio 1.2, 5.10.6 "Device Operation")."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

HOST_CID = 2
STREAM = 1
# src_cid, dst_cid, src_port, dst_port, len, type, op, flags, buf_alloc, fwd_cnt
HEADER = struct.Struct("<QQIIIHHIII")


class Operation(IntEnum):
    """What a packet does (5.10.6)."""

    INVALID = 0
    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Shutdown(IntFlag):
    """What the sender of a SHUTDOWN will no longer do (5.10.6.5)."""

    NONE = 0
    RECEIVE = 1
    SEND = 2
    BOTH = 3


class Packet(NamedTuple):
    """A header; the fields are those of ``struct virtio_vsock_hdr``."""

    source_cid: int
    destination_cid: int
    source_port: int
    destination_port: int
    length: int
    type: int
    operation: int
    flags: int
    buffer_allocation: int
    forward_count: int

    def encode(self) -> bytes:
        """Return the header as bytes."""
        return HEADER.pack(*self)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Packet:
        """Parse a header from at least 44 bytes."""
        return cls._make(HEADER.unpack_from(data))

    def reset(self) -> Packet:
        """Return the packet that answers this one with a reset."""
        return Packet(
            self.destination_cid,
            self.source_cid,
            self.destination_port,
            self.source_port,
            0,
            self.type,
            Operation.RST,
            0,
            0,
            0,
        )
