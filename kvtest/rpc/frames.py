# SPDX-License-Identifier: Apache-2.0
"""ttRPC's framing, apart from any I/O.

A frame is a header of ten bytes, big-endian: length of the data (u32, at most 4 MiB), stream (u32), type (u8), flags
(u8); then the data (ttrpc PROTOCOL.md, "Message Frame").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from kvtest.errors import FrameError

DATA_LIMIT = 4 << 20
REQUEST = 1
RESPONSE = 2

_HEADER = struct.Struct(">IIBB")
HEADER_SIZE = _HEADER.size


class Frame(NamedTuple):
    """One frame.

    Args:
        stream: Number of the call, odd and chosen by the client.
        kind: ``REQUEST`` or ``RESPONSE``.
        data: The message; ``None`` if it was over the limit and has been skipped.
    """

    stream: int
    kind: int
    data: bytes | None


def encode(stream: int, kind: int, data: bytes) -> bytes:
    """Return a frame as bytes.

    Raises:
        FrameError: The data is over the limit of 4 MiB.
    """
    if len(data) > DATA_LIMIT:
        raise FrameError(f"a message of {len(data)} bytes is over ttRPC's limit of {DATA_LIMIT}")
    return _HEADER.pack(len(data), stream, kind, 0) + data


class Parser:
    """Cuts a stream of bytes into frames.

    Args:
        kind: The type of frame that the peer may send.
    """

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._buffer = bytearray()
        self._skip = 0  # bytes of a frame over the limit that are still to come

    def feed(self, data: bytes | bytearray) -> Iterator[Frame]:
        """Take bytes and yield the frames that are complete.

        A frame over the limit is yielded without its data as soon as its header is there, and its data is skipped, so
        that its call can be refused and the connection goes on.

        Raises:
            FrameError: The bytes are not ttRPC; the connection cannot go on.
        """
        self._buffer += data
        while True:
            skipped = min(self._skip, len(self._buffer))
            del self._buffer[:skipped]
            self._skip -= skipped
            if self._skip or len(self._buffer) < _HEADER.size:
                return
            length, stream, kind, _flags = _HEADER.unpack_from(self._buffer)
            if kind != self._kind:
                raise FrameError(f"a frame of type {kind} where only type {self._kind} may come")
            if stream % 2 == 0:
                raise FrameError(f"a frame of stream {stream}: clients' streams are odd")
            if length > DATA_LIMIT:
                del self._buffer[: _HEADER.size]
                self._skip = length
                yield Frame(stream, kind, None)
                continue
            if len(self._buffer) < _HEADER.size + length:
                return
            body = bytes(self._buffer[_HEADER.size : _HEADER.size + length])
            del self._buffer[: _HEADER.size + length]
            yield Frame(stream, kind, body)

    def end(self) -> None:
        """Take the end of the stream.

        Raises:
            FrameError: It came in the middle of a frame.
        """
        if self._buffer or self._skip:
            raise FrameError(f"the stream ended in the middle of a frame, after {len(self._buffer)} bytes of it")
