# SPDX-License-Identifier: Apache-2.0
"""The request that a frozen guest wakes up for, served without what serves all others.

An emulated machine translates whatever it runs for the first time, and in a clone that is everything. So the daemon of
a template waits in one read for Personalize, which always has the same size and but for one part the same content, and
has the answer ready. Whatever else comes is left to the usual way.
"""

from __future__ import annotations

import io

from kvtest.guest.identity import RECORD, Personalization
from kvtest.guest.messages import SERVICE, pack
from kvtest.rpc import frames
from kvtest.rpc.envelope import Request, Response
from kvtest.rpc.status import Code

PERSONALIZE = "Personalize"


class FirstRequest:
    """A daemon's wait for one request.

    Args:
        stream: The number that the request will have.
        channel: Descriptor of the channel, which blocks.
        guest: Whether this machine is a guest: any other refuses the request, in the usual way.
    """

    def __init__(self, stream: int, channel: int, *, guest: bool = True) -> None:
        empty = pack({})
        frame = frames.encode(
            stream, frames.REQUEST, Request(SERVICE, PERSONALIZE, empty + bytes(RECORD.size)).encode()
        )
        begin = len(frame) - RECORD.size
        self._size = len(frame)
        self._head = memoryview(frame)[:begin]
        self._answer = frames.encode(stream, frames.RESPONSE, Response(Code.OK, "", empty).encode())
        self._data = bytearray(len(frame))
        self._data_head = memoryview(self._data)[:begin]
        self._personalization = Personalization(memoryview(self._data)[begin:]) if guest else None
        self._channel = io.FileIO(channel, "r+b", closefd=False)

    def serve(self) -> bytes | None:
        """Wait for what comes first, and answer if it is the request.

        Returns:
            ``None`` if it was the request and is answered, and else its first bytes, none at the channel's end.

        Raises:
            OSError: The channel broke.
        """
        size = self._channel.readinto(self._data)
        if size != self._size or self._data_head != self._head or self._personalization is None:
            return bytes(self._data[:size])
        try:
            self._personalization.apply()
        except OSError:  # which the usual way tells the host
            return bytes(self._data)
        self._channel.write(self._answer)
        return None

    def close(self) -> None:
        """Give back what it holds."""
        if self._personalization is not None:
            self._personalization.close()
