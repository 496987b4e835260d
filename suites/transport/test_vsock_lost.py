# SPDX-License-Identifier: Apache-2.0
"""What connections see when the guest is gone."""

from __future__ import annotations

import socket

import pytest

from kvtest import Guest, Steps, Vsock, requirement
from kvtest.peers import echo, ended_within, receive_exactly

BOUND = 1.0  # seconds, of the requirement
HOST_PORT = 0x6B76_0003


def connect_and_wait(port: int) -> Steps:
    """Connect to the host and wait for what never comes; runs in the guest."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as client:
        client.connect((socket.VMADDR_CID_HOST, port))
        client.sendall(b"up")
        yield "connected"
        client.recv(1)


@pytest.mark.guest(fresh=True)
@pytest.mark.parametrize(
    "end",
    [
        pytest.param("kill", marks=requirement("VSOCK-LOST-001")),
        pytest.param("power_off", marks=requirement("VSOCK-LOST-002")),
    ],
)
def test_every_connection_ends_with_the_guest(guest: Guest, vsock: Vsock, end: str) -> None:
    with (
        guest.serve(echo) as service,
        vsock.connect_many(service.port, 8) as clients,
        vsock.listen(HOST_PORT) as server,
    ):
        for client in clients[:4]:  # half have spoken, half are idle
            client.sendall(b"hello")
            assert receive_exactly(client, 5) == b"hello"
        guest.start(connect_and_wait, HOST_PORT).resume()
        incoming = server.accept()
        with incoming:
            assert receive_exactly(incoming, 2) == b"up"
            getattr(guest.vm, end)()
            assert ended_within([*clients, incoming], BOUND) == 9
            for connection in [*clients, incoming]:
                with pytest.raises((BrokenPipeError, ConnectionResetError)):
                    connection.sendall(b"anybody there?")
        with pytest.raises(ConnectionRefusedError):
            vsock.connect(service.port)
