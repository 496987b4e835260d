# SPDX-License-Identifier: Apache-2.0
"""How requests and replies of the control service are encoded; both sides use this.

A payload is the length of a JSON document (u32, big-endian), the document, and raw bytes that go with it, so that the
contents of files and pipes are not blown up by an encoding.
"""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

from kvtest.errors import FrameError

SERVICE = "kvtest.Control"
CONTROL_PORT = "org.kvtest.control"

# Raw bytes of one message; with the document it stays below ttRPC's limit.
ATTACHMENT_LIMIT = 2 << 20

_LENGTH = struct.Struct(">I")
_BYTES = "$bytes"


def pack(document: dict[str, Any], attachment: bytes = b"") -> bytes:
    """Return a payload.

    Args:
        document: JSON values, and ``bytes`` anywhere in it.
        attachment: Raw bytes.

    Raises:
        TypeError: The document holds something else; the message says what.
    """
    encoded = _encode(document).encode()
    return _LENGTH.pack(len(encoded)) + encoded + attachment


def unpack(payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Return document and attachment of a payload.

    Raises:
        FrameError: It is malformed.
    """
    try:
        (length,) = _LENGTH.unpack_from(payload)
        end = _LENGTH.size + length
        document = _decode(payload[_LENGTH.size : end].decode())
    except (ValueError, struct.error) as error:
        raise FrameError(f"malformed control message: {error}") from error
    if not isinstance(document, dict) or end > len(payload):
        raise FrameError("malformed control message: no document")
    return document, payload[end:]


def _from_bytes(value: object) -> dict[str, str]:
    if isinstance(value, bytes | bytearray):
        return {_BYTES: base64.b64encode(value).decode()}
    raise TypeError(f"a {type(value).__name__} cannot cross between host and guest: use JSON values and bytes")


def _to_bytes(value: dict[str, Any]) -> Any:
    return base64.b64decode(value[_BYTES]) if value.keys() == {_BYTES} else value


# Made once: json.dumps() and json.loads() make new ones for each call that asks for anything special.
_encode = json.JSONEncoder(default=_from_bytes, separators=(",", ":")).encode
_decode = json.JSONDecoder(object_hook=_to_bytes).decode
