# SPDX-License-Identifier: Apache-2.0
"""The request that a frozen guest wakes up for, served without what serves all others.

An emulated machine translates whatever it runs for the first time, and in a clone that is everything. So the daemon of
a template waits in one read for Personalize, knows how its frame begins, and has the answer ready: that takes a quarter
off the time to a clone's first answer. Whatever else comes is left to the usual way.
"""

from __future__ import annotations

import os

from kvtest.guest import identity
from kvtest.guest.messages import SERVICE, pack
from kvtest.rpc import frames
from kvtest.rpc.envelope import Request, Response
from kvtest.rpc.status import Code

PERSONALIZE = "Personalize"
_CHUNK = 1024
_LENGTH = 4  # bytes of a frame's length, in front of it; it changes with the deadline at the request's end


class FirstRequest:
    """A daemon's wait for one request.

    Args:
        stream: The number that the request will have.
    """

    def __init__(self, stream: int) -> None:
        empty = pack({})
        record = bytes(identity.RECORD.size)
        request = Request(SERVICE, PERSONALIZE, empty + record, 1)
        frame = frames.encode(stream, frames.REQUEST, request.encode())
        self._record = frame.index(empty + record) + len(empty)
        self._head = frame[_LENGTH : self._record]
        self._answer = frames.encode(stream, frames.RESPONSE, Response(Code.OK, "", empty).encode())

    def serve(self, channel: int) -> bytes | None:
        """Wait for what comes first, and answer if it is the request.

        Args:
            channel: Descriptor of the channel, which blocks.

        Returns:
            ``None`` if it was the request and is answered, and else the bytes, none at the channel's end.

        Raises:
            OSError: The channel broke.
        """
        data = os.read(channel, _CHUNK)
        begin = self._record
        whole = len(data) == frames.HEADER_SIZE + int.from_bytes(data[:_LENGTH], "big")
        if not whole or data[_LENGTH:begin] != self._head:
            return data
        try:
            identity.personalize(data[begin : begin + identity.RECORD.size])
        except (OSError, ValueError):  # which the usual way tells the host
            return data
        os.write(channel, self._answer)
        return None
