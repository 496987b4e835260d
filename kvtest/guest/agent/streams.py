# SPDX-License-Identifier: Apache-2.0
"""The standard streams of a process, read and written by calls of any number of clients.

Nothing is buffered here: a pipe holds what nobody has read, and a process that writes more waits.
"""

from __future__ import annotations

import os
import selectors
from collections import deque
from collections.abc import Callable

from kvtest.errors import RPCError
from kvtest.guest.reactor import Reactor
from kvtest.rpc.server import Call
from kvtest.rpc.status import Code

_MOST = 1 << 20


class Output:
    """One stream that a process writes; clients that read at once share its bytes.

    Args:
        reactor: Tells when there is something.
        descriptor: Our end of it.
        reply: Answers a call with bytes.
    """

    def __init__(self, reactor: Reactor, descriptor: int, reply: Callable[[Call, bytes], None]) -> None:
        self._reactor = reactor
        self._descriptor: int | None = descriptor
        self._reply = reply
        self._readers: deque[tuple[Call, int]] = deque()
        self._writer_ended = False
        os.set_blocking(descriptor, False)

    def read(self, call: Call, size: int) -> None:
        """Answer a call with the next bytes, or fail it at the end of the stream."""
        if size <= 0:
            raise RPCError(Code.INVALID_ARGUMENT, "a read of no bytes")
        self._readers.append((call, min(size, _MOST)))
        self._serve()

    def process_ended(self) -> None:
        """Take the end of the process: what is in the pipe still comes, then the stream has ended.

        Children that it left and that hold the stream open keep no reader waiting.
        """
        self._writer_ended = True
        self._serve()

    def prune(self) -> None:
        """Forget calls that nobody waits for any more."""
        self._readers = deque(entry for entry in self._readers if not entry[0].answered)
        self._watch()

    def close(self) -> None:
        """Give the descriptor back; readers see the end."""
        self._finish()

    def _serve(self) -> None:
        while self._readers and self._descriptor is not None:
            call, size = self._readers[0]
            if call.answered:
                self._readers.popleft()
                continue
            try:
                data = os.read(self._descriptor, size)
            except BlockingIOError:
                if self._writer_ended:
                    break
                self._watch()
                return
            except OSError:  # EIO is how a terminal ends
                data = b""
            if not data:
                break
            self._readers.popleft()
            self._reply(call, data)
        if self._readers:
            self._finish()
        self._watch()

    def _finish(self) -> None:
        if self._descriptor is not None:
            self._reactor.forget(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
        readers, self._readers = self._readers, deque()
        for call, _ in readers:
            call.fail(Code.OUT_OF_RANGE, "the stream has ended")

    def _watch(self) -> None:
        if self._descriptor is not None:
            self._reactor.watch(self._descriptor, selectors.EVENT_READ, self._serve if self._readers else None)


class Input:
    """The stream that a process reads.

    Args:
        reactor: Tells when there is room.
        descriptor: Our end of it.
        reply: Answers a call with the number of bytes that were written.
    """

    def __init__(self, reactor: Reactor, descriptor: int, reply: Callable[[Call, int], None]) -> None:
        self._reactor = reactor
        self._descriptor: int | None = descriptor
        self._reply = reply
        self._writers: deque[tuple[Call, bytes]] = deque()
        self._written = 0  # bytes of the first
        self._closing = False
        os.set_blocking(descriptor, False)

    def write(self, call: Call, data: bytes) -> None:
        """Write bytes after those of earlier calls, and answer when the process has room for all."""
        if self._descriptor is None or self._closing:
            raise RPCError(Code.FAILED_PRECONDITION, "the standard input is closed")
        self._writers.append((call, data))
        self._flush()

    def close(self) -> None:
        """End the stream once all bytes are written."""
        self._closing = True
        self._flush()

    def abandon(self) -> None:
        """End the stream: nobody reads it."""
        if self._descriptor is not None:
            self._reactor.forget(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
        writers, self._writers = self._writers, deque()
        for call, _ in writers:
            call.fail(Code.FAILED_PRECONDITION, "the process does not read its standard input any more")

    def prune(self) -> None:
        """Forget calls that nobody waits for any more; what is half written is finished."""
        begun = list(self._writers)[:1] if self._written else []
        self._writers = deque(
            [*begun, *(entry for entry in list(self._writers)[len(begun) :] if not entry[0].answered)]
        )

    def _flush(self) -> None:
        while self._writers and self._descriptor is not None:
            call, data = self._writers[0]
            try:
                self._written += os.write(self._descriptor, memoryview(data)[self._written :])
            except BlockingIOError:
                break
            except OSError:
                self.abandon()
                return
            if self._written >= len(data):
                self._writers.popleft()
                self._written = 0
                self._reply(call, len(data))
        if self._descriptor is None:
            return
        if self._closing and not self._writers:
            self.abandon()
        else:
            self._reactor.watch(self._descriptor, selectors.EVENT_WRITE, self._flush if self._writers else None)
