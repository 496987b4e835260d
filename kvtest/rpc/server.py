# SPDX-License-Identifier: Apache-2.0
"""The server's side of one ttRPC connection, apart from any I/O.

A handler may answer at once or later, so that one thread can hold many long calls; whoever owns the stream feeds what
it reads, and is given what to write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from kvtest.deadline import Deadline
from kvtest.errors import FrameError, RPCError
from kvtest.rpc import frames
from kvtest.rpc.envelope import Request, Response
from kvtest.rpc.status import Code

# Returns the result, or None if it answers later through the call.
Handler = Callable[["Call"], "bytes | None"]
Services = Mapping[str, Mapping[str, Handler]]


class Call:
    """A call that waits for its answer.

    Args:
        connection: Where it came from.
        stream: Its number there.
        request: What is asked.
    """

    def __init__(self, connection: Connection, stream: int, request: Request) -> None:
        self._connection = connection
        self.stream = stream
        self.method = request.method
        self.payload = request.payload
        self.deadline = Deadline(request.timeout / 1e9 if request.timeout > 0 else None)
        self.answered = False
        self._abandoned: Callable[[], None] | None = None

    def reply(self, payload: bytes) -> None:
        """Answer with a result; harmless if the call has been answered or its connection is gone."""
        self._answer(Response(Code.OK, "", payload))

    def fail(self, code: Code | int, message: str) -> None:
        """Answer with a status."""
        self._answer(Response(code, message, b""))

    def when_abandoned(self, tell: Callable[[], None]) -> None:
        """Have somebody told when nobody waits for the answer any more, at once if nobody does; perhaps twice."""
        self._abandoned = tell
        if self.answered:
            tell()

    def abandon(self) -> None:
        """Take it that nobody waits for the answer any more."""
        self.answered = True
        if self._abandoned is not None:
            self._abandoned()

    def _answer(self, response: Response) -> None:
        if not self.answered:
            self.answered = True
            self._connection.answer(self.stream, response)


class Connection:
    """One connection.

    Args:
        services: Handlers by service and method.
        send: Takes the bytes that go to the client.
        enough: Says whether the client is to take what it has got before it is served any more.
    """

    def __init__(
        self, services: Services, send: Callable[[bytes], None], enough: Callable[[], bool] = lambda: False
    ) -> None:
        self._services = services
        self._send = send
        self._enough = enough
        self._parser = frames.Parser(frames.REQUEST)
        self._calls: dict[int, Call] = {}
        self._latest = 0
        # When to look at the deadlines of calls, on the monotonic clock: hundreds may wait, and each turn asks for it.
        self._next_look: float | None = None

    def feed(self, data: bytes | bytearray) -> None:
        """Take bytes from the client and run the handlers of the calls in them, until the client has got enough.

        The calls behind those are served when more bytes come, or none: ``feed(b"")``.

        Raises:
            FrameError: They are not ttRPC: the connection is to be closed, with this as the reason.
        """
        for frame in self._parser.feed(data):
            if frame.stream <= self._latest:
                raise FrameError(f"stream {frame.stream} was used before stream {self._latest}: numbers only grow")
            self._latest = frame.stream
            if frame.data is None:
                message = f"the request is over ttRPC's limit of {frames.DATA_LIMIT} bytes"
                self.answer(frame.stream, Response(Code.RESOURCE_EXHAUSTED, message, b""))
                continue
            try:
                request = Request.decode(frame.data)
            except FrameError as error:
                self.answer(frame.stream, Response(Code.INVALID_ARGUMENT, error.message, b""))
                continue
            self._run(frame.stream, request)
            if self._enough():
                return

    def _run(self, stream: int, request: Request) -> None:
        call = self._calls[stream] = Call(self, stream, request)
        self._look_at(call.deadline.remaining)
        methods = self._services.get(request.service)
        if methods is None:
            call.fail(Code.UNIMPLEMENTED, f"no service {request.service!r}")
        elif request.method not in methods:
            call.fail(Code.UNIMPLEMENTED, f"no method {request.method!r} in {request.service}")
        else:
            try:
                result = methods[request.method](call)
            except RPCError as error:
                call.fail(error.code, error.message)
            except Exception as error:  # whatever a handler does wrong, the connection goes on
                call.fail(Code.UNKNOWN, f"{type(error).__name__}: {error}")
            else:
                if result is not None:
                    call.reply(result)

    def answer(self, stream: int, response: Response) -> None:
        """Send an answer."""
        self._calls.pop(stream, None)
        encoded = response.encode()
        if len(encoded) > frames.DATA_LIMIT:
            message = f"the answer of {len(encoded)} bytes is over ttRPC's limit of {frames.DATA_LIMIT}"
            encoded = Response(Code.RESOURCE_EXHAUSTED, message, b"").encode()
        self._send(frames.encode(stream, frames.RESPONSE, encoded))

    def served_apart(self, stream: int) -> None:
        """Take note that a call was answered by somebody else."""
        self._latest = stream

    @property
    def waiting(self) -> int:
        """How many calls wait for their answers."""
        return len(self._calls)

    def expire(self) -> float | None:
        """Fail the calls whose deadline has passed.

        Returns:
            Seconds until it is to be called again at the latest, ``None`` if no call has a deadline.
        """
        if self._next_look is not None and time.monotonic() >= self._next_look:
            self._next_look = None
            for call in list(self._calls.values()):
                if call.deadline.expired:
                    call.fail(Code.DEADLINE_EXCEEDED, f"{call.method} was not answered within its deadline")
                else:
                    self._look_at(call.deadline.remaining)
        return None if self._next_look is None else max(0.0, self._next_look - time.monotonic())

    def _look_at(self, left: float | None) -> None:
        if left is not None:
            when = time.monotonic() + left
            self._next_look = when if self._next_look is None else min(self._next_look, when)

    def close(self) -> None:
        """Take the end of the connection: nobody waits for the answers any more."""
        for call in list(self._calls.values()):
            call.abandon()
        self._calls.clear()
