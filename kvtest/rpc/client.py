# SPDX-License-Identifier: Apache-2.0
"""The client's side of a ttRPC connection: many calls at once, from any thread."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from kvtest.deadline import Deadline
from kvtest.errors import ConnectionLostError, FrameError, RPCError
from kvtest.rpc import frames
from kvtest.rpc.envelope import Request, Response
from kvtest.rpc.status import name_of

_CHUNK = 1 << 18


class PendingCall:
    """A call that has been sent.

    Args:
        client: The connection.
        stream: Its number there.
        name: What to call it in messages.
        answer: Gets the answer.
    """

    def __init__(self, client: Client, stream: int, name: str, answer: Future[Response]) -> None:
        self._client = client
        self._stream = stream
        self.name = name
        self._answer = answer

    @property
    def answered(self) -> bool:
        """Whether the answer is there, or never will be."""
        return self._answer.done()

    def result(self, deadline: Deadline) -> bytes:
        """Wait for the answer and return the result; raises as :meth:`Client.call` does."""
        try:
            response = self._answer.result(deadline.remaining)
        except TimeoutError:
            self._client.forget(self._stream)
            raise deadline.exceeded(f"the answer to {self.name}") from None
        if response.code:
            reason = f": {response.message}" if response.message else ", with no more words"
            raise RPCError(response.code, f"{self.name}: {name_of(response.code)}{reason}")
        return response.payload


class Client:
    """A connection to a server.

    Args:
        stream: A connected stream socket; the client owns it from now on.
        name: What to call the peer in messages.
        first: Number of the first call's stream, odd.
        ended: Called once when the connection has ended, on the thread that noticed.
    """

    def __init__(
        self, stream: socket.socket, name: str, first: int = 1, ended: Callable[[], None] | None = None
    ) -> None:
        stream.settimeout(None)
        self._stream = stream
        self._name = name
        self._ended = ended
        self._lock = threading.Lock()  # of the fields below
        self._sending = threading.Lock()  # frames must not mix; never taken inside the other
        self._next = first
        self._pending: dict[int, Future[Response]] = {}
        self._lost: str | None = None
        self._reader = threading.Thread(target=self._read, name=f"kvtest-rpc {name}", daemon=True)
        self._reader.start()

    @property
    def next_stream(self) -> int:
        """Number of the stream that the next call gets."""
        return self._next

    @property
    def lost(self) -> str | None:
        """Why the connection ended, or ``None`` while it lasts."""
        return self._lost

    def call(self, service: str, method: str, payload: bytes, deadline: Deadline | float | None) -> bytes:
        """Call a method and return its result.

        Args:
            service: Full name of the service.
            method: Name of the method.
            payload: The encoded argument.
            deadline: When to give up; also told to the server.

        Raises:
            RPCError: The server answered with a status other than OK.
            ConnectionLostError: The connection ended before the answer.
            DeadlineExceededError: No answer came in time.
            FrameError: The argument is over the limit of 4 MiB.
        """
        deadline = Deadline.of(deadline)
        return self.begin(service, method, payload, deadline).result(deadline)

    def begin(self, service: str, method: str, payload: bytes, deadline: Deadline) -> PendingCall:
        """Send a call without waiting for its answer; see :meth:`call` for the arguments."""
        left = deadline.remaining
        timeout = 0 if left is None else max(1, int(left * 1e9))
        data = Request(service, method, payload, timeout).encode()
        answer: Future[Response] = Future()
        with self._turn(deadline, method):  # numbers have to grow in the order of sending
            with self._lock:
                if self._lost is not None:
                    raise ConnectionLostError(f"{self._name}: {method} was not sent: {self._lost}")
                stream, self._next = self._next, self._next + 2
                frame = frames.encode(stream, frames.REQUEST, data)
                self._pending[stream] = answer
            self._send(frame, deadline, method)
        return PendingCall(self, stream, f"{self._name}: {method}", answer)

    def forget(self, stream: int) -> None:
        """Take no more interest in an answer."""
        with self._lock:
            self._pending.pop(stream, None)

    def close(self) -> None:
        """End the connection; calls under way fail."""
        self._end("it was closed on this side")
        with contextlib.suppress(OSError):  # the peer may have ended it
            self._stream.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._stream.close()

    @contextlib.contextmanager
    def _turn(self, deadline: Deadline, method: str) -> Iterator[None]:
        """Wait until it is ours to send; a call with more time may be sending to a peer that does not read."""
        left = deadline.remaining
        if not self._sending.acquire(timeout=-1 if left is None else left):
            raise deadline.exceeded(f"{method} to be sent to {self._name}, which does not read what was sent before")
        try:
            yield
        finally:
            self._sending.release()

    def _send(self, frame: bytes, deadline: Deadline, method: str) -> None:
        # Not with settimeout(): it would hold for the reader as well.
        poll = select.poll()
        poll.register(self._stream, select.POLLOUT)
        rest = memoryview(frame)
        try:
            while rest:
                if not poll.poll(deadline.remaining_ms):
                    self._end(f"{method} could not be sent whole: the peer does not read")
                    return
                with contextlib.suppress(BlockingIOError):
                    rest = rest[self._stream.send(rest, socket.MSG_DONTWAIT) :]
        except OSError as error:
            self._end(f"the connection ended ({error.strerror})")

    def _read(self) -> None:
        parser = frames.Parser(frames.RESPONSE)
        try:
            while data := self._stream.recv(_CHUNK):
                for frame in parser.feed(data):
                    self._deliver(frame)
            parser.end()
            reason = "the connection ended"
        except OSError as error:
            reason = f"the connection ended ({error.strerror})"
        except FrameError as error:
            reason = f"the peer does not speak ttRPC: {error.message}"
        self._end(reason)

    def _deliver(self, frame: frames.Frame) -> None:
        with self._lock:
            answer = self._pending.pop(frame.stream, None)
        if answer is None:
            return  # whoever asked has given up
        if frame.data is None:
            answer.set_exception(
                FrameError(f"{self._name}: an answer is over ttRPC's limit of {frames.DATA_LIMIT} bytes")
            )
            return
        try:
            answer.set_result(Response.decode(frame.data))
        except FrameError as error:
            answer.set_exception(error)
            raise

    def _end(self, reason: str) -> None:
        with self._lock:
            first = self._lost is None
            if first:
                self._lost = reason
            pending, self._pending = self._pending, {}
        for answer in pending.values():
            answer.set_exception(ConnectionLostError(f"{self._name}: {self._lost}"))
        if first and self._ended is not None:
            self._ended()
