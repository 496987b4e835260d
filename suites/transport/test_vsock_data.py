# SPDX-License-Identifier: Apache-2.0
"""Bytes arrive complete and in order."""

from __future__ import annotations

import socket

import pytest

from kvtest import Guest, Vsock, requirement
from kvtest.peers import compare, pattern, pattern_pieces, receive_all, receive_exactly, received_pieces

SIZE = 64 << 20


def answer_what_came(connection: socket.socket) -> None:
    """Read to the end of the stream, then say whether it was the pattern; runs in the guest."""
    connection.sendall(compare(received_pieces(connection), 3).encode())


def send_pattern(connection: socket.socket) -> None:
    """Send as many bytes of the pattern as the first line asks for; runs in the guest."""
    with connection.makefile("rb") as stream:
        for piece in pattern_pieces(7, int(stream.readline())):
            connection.sendall(piece)


@requirement("VSOCK-DATA-001")
@pytest.mark.parametrize("size", [1, 4095, 65537, SIZE])
def test_the_host_sends(guest: Guest, vsock: Vsock, size: int) -> None:
    with guest.serve(answer_what_came) as service, vsock.connect(service.port, timeout=60) as client:
        client.sendall(pattern(3, size))
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client).decode() == f"{size} bytes"


@requirement("VSOCK-DATA-002")
@pytest.mark.parametrize("size", [1, 4095, 65537, SIZE])
def test_the_guest_sends(guest: Guest, vsock: Vsock, size: int) -> None:
    with guest.serve(send_pattern) as service, vsock.connect(service.port, timeout=60) as client:
        client.sendall(b"%d\n" % size)
        assert compare(received_pieces(client), 7) == f"{size} bytes"


@requirement("VSOCK-DATA-001")
def test_every_value_of_a_byte_arrives(guest: Guest, vsock: Vsock) -> None:
    def echo_reversed(connection: socket.socket) -> None:
        connection.sendall(receive_exactly(connection, 256)[::-1])

    every = bytes(range(256))
    with guest.serve(echo_reversed) as service, vsock.connect(service.port) as client:
        client.sendall(every)
        assert receive_all(client) == every[::-1]
