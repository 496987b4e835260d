# SPDX-License-Identifier: Apache-2.0
"""The messages Request and Response around every payload, in the protobuf encoding.

Written by hand because they have seven fields that never change, and guests start faster without a protobuf library.
Unknown fields are skipped, as the encoding demands (protobuf.dev, "Encoding").
"""

from __future__ import annotations

from typing import NamedTuple

from kvtest.errors import FrameError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_U64 = (1 << 64) - 1


class Request(NamedTuple):
    """A call.

    Args:
        service: Full name of the service.
        method: Name of the method.
        payload: The encoded argument.
        timeout: Nanoseconds that the client will wait; 0 for no limit.
    """

    service: str
    method: str
    payload: bytes
    timeout: int = 0

    def encode(self) -> bytes:
        """Return the message as bytes."""
        return (
            bytes_field(1, self.service.encode())
            + bytes_field(2, self.method.encode())
            + bytes_field(3, self.payload)
            + varint_field(4, self.timeout)
        )

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """Parse a message.

        Raises:
            FrameError: It is malformed.
        """
        fields = _parse(data)
        return cls(_text(fields.get(1)), _text(fields.get(2)), _raw(fields.get(3)), _signed(fields.get(4)))


class Response(NamedTuple):
    """The answer to a call.

    Args:
        code: gRPC status code, 0 for success.
        message: Text that goes with another code.
        payload: The encoded result.
    """

    code: int
    message: str
    payload: bytes

    def encode(self) -> bytes:
        """Return the message as bytes."""
        status = varint_field(1, self.code) + bytes_field(2, self.message.encode())
        return (bytes_field(1, status) if self.code else b"") + bytes_field(2, self.payload)

    @classmethod
    def decode(cls, data: bytes) -> Response:
        """Parse a message.

        Raises:
            FrameError: It is malformed.
        """
        fields = _parse(data)
        status = _parse(_raw(fields.get(1)))
        return cls(_signed(status.get(1)), _text(status.get(2)), _raw(fields.get(2)))


def _varint(value: int) -> bytes:
    value &= _U64
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def varint_field(number: int, value: int) -> bytes:
    """Return a field that is a number, encoded; 0 is left out."""
    return _varint(number << 3 | _VARINT) + _varint(value) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """Return a field of bytes, text or a message, encoded; an empty one is left out."""
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value if value else b""


def _parse(data: bytes) -> dict[int, int | bytes]:
    """Return the last value of each field."""
    fields: dict[int, int | bytes] = {}
    offset = 0
    while offset < len(data):
        tag, offset = _read_varint(data, offset)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise FrameError("malformed message: a field has number 0")
        if kind == _VARINT:
            fields[number], offset = _read_varint(data, offset)
            continue
        if kind == _BYTES:
            size, offset = _read_varint(data, offset)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise FrameError(f"malformed message: field {number} has wire type {kind}")
        if offset + size > len(data):
            raise FrameError(f"malformed message: field {number} goes beyond its end")
        fields[number] = data[offset : offset + size]
        offset += size
    return fields


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(data):
            raise FrameError("malformed message: it ends inside a number")
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _U64, offset
    raise FrameError("malformed message: a number of more than 10 bytes")


def _raw(value: int | bytes | None) -> bytes:
    if isinstance(value, int):
        raise FrameError("malformed message: a number where bytes belong")
    return value or b""


def _text(value: int | bytes | None) -> str:
    try:
        return _raw(value).decode()
    except UnicodeDecodeError as error:
        raise FrameError(f"malformed message: text that is not UTF-8: {error.reason}") from error


def _signed(value: int | bytes | None) -> int:
    if isinstance(value, bytes):
        raise FrameError("malformed message: bytes where a number belongs")
    value = value or 0
    return value - (1 << 64) if value >> 63 else value
