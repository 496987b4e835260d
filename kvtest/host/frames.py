# SPDX-License-Identifier: Apache-2.0
"""How kvtest and its attendant on another machine talk: frames of a JSON header and bytes.

This file is sent to the other machine together with ``attendant.py`` and stands alone, as that one does.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

MARK = b"\0kvtest\0"
"""Comes before the attendant's first frame: a login script that prints something must not break the conversation."""
PIECE = 1 << 18
"""Bytes of a file that go into one frame."""
_SIZES = struct.Struct(">II")

Header = dict[str, Any]


def pack(header: Header, payload: bytes = b"") -> bytes:
    """Return a frame as bytes."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return _SIZES.pack(len(text), len(payload)) + text + payload


class Frames:
    """Frames out of bytes that come in pieces."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Take some bytes."""
        self._data += data

    def take(self) -> Iterator[tuple[Header, bytes]]:
        """Yield the frames that are complete; each once."""
        while len(self._data) >= _SIZES.size:
            header, payload = _SIZES.unpack_from(self._data)
            begin = _SIZES.size + header
            if len(self._data) < begin + payload:
                return
            text, content = bytes(self._data[_SIZES.size : begin]), bytes(self._data[begin : begin + payload])
            del self._data[: begin + payload]
            yield json.loads(text), content
