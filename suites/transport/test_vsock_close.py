# SPDX-License-Identifier: Apache-2.0
"""How connections end, side by side."""

from __future__ import annotations

import socket

import pytest

from kvtest import Guest, Steps, Vsock, requirement
from kvtest.comparison import assert_equal
from kvtest.peers import listen_on_any_port, receive_all, receive_exactly

# After so many seconds Linux resets a connection whose close nobody has answered: no sign that the close was seen.
CLOSE_TIMEOUT = 8.0


def one_connection() -> Steps:
    """Accept one connection and do on it what the host asks, one word at a time; runs in the guest."""
    listener = listen_on_any_port()
    yield listener.getsockname()[1]
    connection, _ = listener.accept()
    connection.settimeout(20)
    answer: object = "accepted"
    while True:
        word = yield answer
        try:
            if word == "close":
                connection.close()
                answer = "closed"
            elif word == "end":
                connection.shutdown(socket.SHUT_WR)
                answer = "ended"
            elif word == "read":
                answer = receive_all(connection)
            else:
                connection.sendall(word)
                answer = "sent"
        except OSError as error:
            answer = type(error).__name__


@requirement("VSOCK-CLOSE-001")
def test_the_guest_sees_the_host_close(guest: Guest, vsock: Vsock) -> None:
    with guest.start(one_connection) as peer:
        with vsock.connect(peer.ready) as client:
            assert peer.send() == "accepted"
            client.sendall(b"last words")
        assert peer.send("read") == b"last words"


@requirement("VSOCK-CLOSE-005")
def test_the_guest_cannot_write_to_a_host_that_closed(guest: Guest, vsock: Vsock) -> None:
    with guest.start(one_connection) as peer:
        with vsock.connect(peer.ready):
            assert peer.send() == "accepted"
        assert peer.send("read") == b""
        # The end may be announced before it is complete: a first write may still be taken, no second is.
        answers = [peer.send(b"too late"), peer.send(b"too late")]
        assert answers[1] in {"BrokenPipeError", "ConnectionResetError"}, answers


@requirement("VSOCK-CLOSE-002")
def test_the_host_sees_the_guest_close(guest: Guest, vsock: Vsock) -> None:
    with guest.start(one_connection) as peer, vsock.connect(peer.ready, timeout=CLOSE_TIMEOUT / 2) as client:
        assert peer.send() == "accepted"
        assert peer.send(b"last words") == "sent"
        assert peer.send("close") == "closed"
        assert receive_all(client) == b"last words"


@requirement("VSOCK-CLOSE-003")
def test_the_guest_can_answer_a_host_that_ended_its_side(guest: Guest, vsock: Vsock) -> None:
    with guest.start(one_connection) as peer, vsock.connect(peer.ready) as client:
        assert peer.send() == "accepted"
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert peer.send("read") == b"question"
        assert peer.send(b"answer") == "sent"
        assert receive_exactly(client, 6) == b"answer"
        assert peer.send("close") == "closed"
        assert receive_all(client) == b""


@requirement("VSOCK-CLOSE-004")
def test_the_host_can_answer_a_guest_that_ended_its_side(guest: Guest, vsock: Vsock) -> None:
    with guest.start(one_connection) as peer, vsock.connect(peer.ready) as client:
        assert peer.send() == "accepted"
        assert peer.send(b"question") == "sent"
        assert peer.send("end") == "ended"
        assert receive_all(client) == b"question"
        client.sendall(b"answer")
        client.shutdown(socket.SHUT_WR)
        assert peer.send("read") == b"answer"


@requirement("VSOCK-CLOSE-002")
@pytest.mark.parametrize("count", [32])
def test_many_connections_closed_mid_stream_leave_the_port_working(guest: Guest, vsock: Vsock, count: int) -> None:
    def flood(connection: socket.socket) -> None:
        try:
            while True:
                connection.sendall(bytes(1 << 16))
        except OSError:
            connection.close()  # the host left, as it should

    with guest.serve(flood) as service:
        for _ in range(count):
            with vsock.connect(service.port) as client:
                assert receive_exactly(client, 1) == b"\0"
        with vsock.connect(service.port) as client:
            assert_equal(receive_exactly(client, 1 << 20), bytes(1 << 20))
