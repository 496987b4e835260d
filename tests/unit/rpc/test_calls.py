# SPDX-License-Identifier: Apache-2.0
"""A real client and a real server over a real socket."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvtest.errors import ConnectionLostError, DeadlineExceededError, FrameError, RPCError
from kvtest.rpc import frames
from kvtest.rpc.client import Client
from kvtest.rpc.envelope import Request
from kvtest.rpc.server import Call, Connection
from kvtest.rpc.status import Code


class Server:
    """Serves one socket on a thread."""

    def __init__(self, stream: socket.socket) -> None:
        self.held: list[Call] = []
        self.holding = threading.Event()
        self.error: FrameError | None = None
        self._stream = stream
        methods = {
            "Echo": lambda call: call.payload,
            "Hold": self.hold,
            "Release": self.release,
            "Refuse": self.refuse,
            "Break": lambda call: 1 // 0,
            "Much": lambda call: bytes(frames.DATA_LIMIT),
        }
        self._connection = Connection({"s": methods}, stream.sendall)
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def hold(self, call: Call) -> None:
        self.held.append(call)
        self.holding.set()

    def release(self, call: Call) -> bytes:
        for held in self.held:
            held.reply(b"held " + held.payload)
        return b"released"

    def refuse(self, call: Call) -> bytes:
        raise RPCError(Code.NOT_FOUND, "nothing of that name")

    def serve(self) -> None:
        with self._stream:
            try:
                while data := self._stream.recv(65536):
                    self._connection.feed(data)
                    self._connection.expire()
            except FrameError as error:
                self.error = error
            except OSError:
                pass  # the client is gone
            self._connection.close()


@pytest.fixture
def pair() -> Iterator[tuple[Client, Server]]:
    ours, theirs = socket.socketpair()
    server = Server(theirs)
    client = Client(ours, "server")
    yield client, server
    client.close()
    server.thread.join(20)
    assert not server.thread.is_alive()


def test_a_call(pair: tuple[Client, Server]) -> None:
    assert pair[0].call("s", "Echo", b"payload", 20) == b"payload"


def test_the_largest_call(pair: tuple[Client, Server]) -> None:
    payload = bytes(frames.DATA_LIMIT - 100)
    assert pair[0].call("s", "Echo", payload, 20) == payload
    with pytest.raises(FrameError, match="limit"):
        pair[0].call("s", "Echo", bytes(frames.DATA_LIMIT), 20)
    assert pair[0].call("s", "Echo", b"still", 20) == b"still"


@pytest.mark.parametrize(
    ("service", "method", "code"),
    [
        ("x", "Echo", Code.UNIMPLEMENTED),
        ("s", "x", Code.UNIMPLEMENTED),
        ("s", "Refuse", Code.NOT_FOUND),
        ("s", "Break", Code.UNKNOWN),
        ("s", "Much", Code.RESOURCE_EXHAUSTED),
    ],
)
def test_statuses(pair: tuple[Client, Server], service: str, method: str, code: Code) -> None:
    with pytest.raises(RPCError) as caught:
        pair[0].call(service, method, b"", 20)
    assert caught.value.code == code
    assert pair[0].call("s", "Echo", b"on", 20) == b"on"


def test_calls_overtake_one_another(pair: tuple[Client, Server]) -> None:
    client, server = pair
    with ThreadPoolExecutor(8) as pool:
        held = [pool.submit(client.call, "s", "Hold", b"%d" % number, 20) for number in range(4)]
        echoes = [pool.submit(client.call, "s", "Echo", b"%d" % number, 20) for number in range(100)]
        assert [echo.result() for echo in echoes] == [b"%d" % number for number in range(100)]
        while len(server.held) < 4:
            server.holding.wait(20)
            server.holding.clear()
        client.call("s", "Release", b"", 20)
        assert {call.result() for call in held} == {b"held %d" % number for number in range(4)}


def test_a_deadline_ends_the_wait_and_nothing_else(pair: tuple[Client, Server]) -> None:
    client, _ = pair
    with pytest.raises(DeadlineExceededError, match="Hold"):
        client.call("s", "Hold", b"", 0.05)
    client.call("s", "Release", b"", 20)  # its late answer is dropped
    assert client.call("s", "Echo", b"on", 20) == b"on"


def test_the_server_keeps_the_deadline_too() -> None:
    sent: list[bytes] = []
    held: list[Call] = []
    connection = Connection({"s": {"Hold": held.append}}, sent.append)
    connection.feed(frames.encode(1, frames.REQUEST, Request("s", "Hold", b"", 1).encode()))
    connection.feed(frames.encode(3, frames.REQUEST, Request("s", "Hold", b"", 10**12).encode()))
    left = connection.expire()
    assert left is not None
    assert 0 < left <= 1000
    assert len(sent) == 1
    assert b"deadline" in sent[0]
    held[0].reply(b"too late")
    assert len(sent) == 1


def test_who_answers_learns_that_nobody_waits_any_more() -> None:
    held: list[Call] = []
    told: list[str] = []
    connection = Connection({"s": {"Hold": held.append}}, lambda _: None)
    connection.feed(frames.encode(1, frames.REQUEST, Request("s", "Hold", b"", 0).encode()))
    held[0].when_abandoned(lambda: told.append("in time"))
    assert told == []
    connection.close()
    assert told == ["in time"]
    held[0].when_abandoned(lambda: told.append("late"))
    assert told == ["in time", "late"]


def test_a_lost_connection_ends_every_call(pair: tuple[Client, Server]) -> None:
    client, server = pair
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(client.call, "s", "Hold", b"", 20) for _ in range(2)]
        while len(server.held) < 2:
            server.holding.wait(20)
            server.holding.clear()
        server._stream.shutdown(socket.SHUT_RDWR)
        for call in held:
            with pytest.raises(ConnectionLostError):
                call.result()
    with pytest.raises(ConnectionLostError, match="not sent"):
        client.call("s", "Echo", b"", 20)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 10, struct.pack(">IIBB", 0, 2, 1, 0)])
def test_garbage_ends_its_connection_with_a_reason(garbage: bytes) -> None:
    ours, theirs = socket.socketpair()
    server = Server(theirs)
    with ours:
        ours.sendall(garbage)
        server.thread.join(20)
    assert isinstance(server.error, FrameError)


def test_a_server_that_talks_garbage_is_named() -> None:
    ours, theirs = socket.socketpair()
    client = Client(ours, "server")
    with contextlib.closing(client), theirs, ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.call, "s", "Echo", b"", 20)
        theirs.recv(100)
        theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n")
        with pytest.raises(ConnectionLostError, match="does not speak ttRPC"):
            call.result()


def test_a_request_over_the_limit_is_refused_and_the_connection_goes_on() -> None:
    sent: list[bytes] = []
    connection = Connection({"s": {"Echo": lambda call: call.payload}}, sent.append)
    size = frames.DATA_LIMIT + 1
    connection.feed(struct.pack(">IIBB", size, 1, 1, 0) + bytes(size))
    assert b"limit" in sent[0]
    connection.feed(frames.encode(3, frames.REQUEST, Request("s", "Echo", b"on").encode()))
    assert sent[1].endswith(b"on")


def test_streams_only_grow() -> None:
    connection = Connection({}, lambda data: None)
    connection.feed(frames.encode(5, frames.REQUEST, b""))
    with pytest.raises(FrameError, match="only grow"):
        connection.feed(frames.encode(3, frames.REQUEST, b""))


def test_a_peer_that_does_not_read_keeps_nobody_waiting_for_a_turn() -> None:
    ours, theirs = socket.socketpair()
    client = Client(ours, "server")
    with theirs, ThreadPoolExecutor(1) as pool:
        endless = pool.submit(client.call, "s", "Echo", bytes(frames.DATA_LIMIT - 100), None)
        assert theirs.recv(1)  # it is being sent
        with pytest.raises(DeadlineExceededError, match="Echo to be sent to server, which does not read"):
            client.call("s", "Echo", b"", 0.05)
        assert not endless.done()
        client.close()
        with pytest.raises(ConnectionLostError):
            endless.result(5.0)


def test_a_peer_that_does_not_read_ends_a_call_at_its_deadline() -> None:
    ours, theirs = socket.socketpair()
    client = Client(ours, "server")
    with contextlib.closing(client), theirs, pytest.raises(ConnectionLostError, match="does not read"):
        client.call("s", "Echo", bytes(frames.DATA_LIMIT - 100), 0.05)


def test_a_client_that_has_enough_is_served_later() -> None:
    sent: list[bytes] = []
    connection = Connection({"s": {"Echo": lambda call: call.payload}}, sent.append, lambda: len(sent) % 2 == 0)
    calls = (frames.encode(number, frames.REQUEST, Request("s", "Echo", b"", 0).encode()) for number in (1, 3, 5, 7, 9))
    connection.feed(b"".join(calls))
    assert len(sent) == 2
    connection.feed(b"")
    assert len(sent) == 4
    connection.feed(b"")
    assert len(sent) == 5
