# SPDX-License-Identifier: Apache-2.0
"""Who connects to whom, and who is refused."""

from __future__ import annotations

import errno
import re
import socket

import pytest

from kvtest import Guest, HybridVsock, Steps, Vsock, requirement
from kvtest.peers import echo, listen_on_any_port, receive_all, receive_exactly
from kvtest.transport import Transport

UNUSED_PORT = 0x6B76_0001
HOST_PORT = 0x6B76_0002

hybrid = pytest.mark.parametrize("vsock", [Transport.VHOST_USER_VSOCK], ids=str, indirect=True)


@requirement("VSOCK-DIRECTION-001")
def test_the_host_connects_to_the_guest(guest: Guest, vsock: Vsock) -> None:
    with guest.serve(echo) as service, vsock.connect(service.port) as client:
        client.sendall(b"from the host")
        assert receive_exactly(client, 13) == b"from the host"


@hybrid
@requirement("VSOCK-HANDSHAKE-001")
def test_the_host_reads_ok_before_any_byte_of_the_guest(guest: Guest, vsock: HybridVsock) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"first byte")

    with guest.serve(greet) as service, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.connect(str(vsock.path))
        client.sendall(b"CONNECT %d\n" % service.port)
        assert re.fullmatch(rb"OK \d+\nfirst byte", receive_all(client))


@hybrid
@requirement("VSOCK-HANDSHAKE-001")
def test_what_follows_connect_at_once_reaches_the_guest(guest: Guest, vsock: HybridVsock) -> None:
    with guest.serve(echo) as service, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.connect(str(vsock.path))
        client.sendall(b"CONNECT %d\nno time to wait" % service.port)
        client.shutdown(socket.SHUT_WR)
        assert re.fullmatch(rb"OK \d+\nno time to wait", receive_all(client))


@requirement("VSOCK-DIRECTION-002")
@pytest.mark.parametrize("count", [1, 8])
def test_the_guest_connects_to_the_host(guest: Guest, vsock: Vsock, count: int) -> None:
    def connect(port: int, count: int) -> Steps:
        clients = []
        for number in range(count):
            client = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            client.connect((socket.VMADDR_CID_HOST, port))
            client.sendall(b"guest client %d" % number)
            clients.append(client)
        yield "sent"
        yield [client.recv(100) for client in clients]

    with vsock.listen(HOST_PORT) as listener, guest.start(connect, HOST_PORT, count) as task:
        accepted = [listener.accept() for _ in range(count)]
        for number, connection in enumerate(accepted):
            with connection:
                greeting = b"guest client %d" % number
                assert receive_exactly(connection, len(greeting)) == greeting
                connection.sendall(b"answer to " + greeting)
        assert task.send() == [b"answer to guest client %d" % number for number in range(count)]


@requirement("VSOCK-REFUSE-001")
def test_a_port_without_listener_is_refused(guest: Guest, vsock: Vsock) -> None:
    with pytest.raises(ConnectionRefusedError):
        vsock.connect(UNUSED_PORT)


@requirement("VSOCK-REFUSE-002")
def test_the_guest_is_refused_where_no_host_listens(guest: Guest, vsock: Vsock) -> None:
    def connect(port: int) -> int:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as client:
            return client.connect_ex((socket.VMADDR_CID_HOST, port))

    assert errno.errorcode[guest.call(connect, UNUSED_PORT)] == "ECONNRESET"


def connect_until_refused(vsock: Vsock, port: int, limit: int) -> list[socket.socket]:
    """Return the connections that a port takes before it refuses one, at most ``limit``."""
    clients: list[socket.socket] = []
    while len(clients) < limit:
        try:
            clients.append(vsock.connect(port))
        except ConnectionRefusedError:
            break
    return clients


@requirement("VSOCK-BACKLOG-001")
def test_more_connections_than_the_backlog_are_refused_without_harm(guest: Guest, vsock: Vsock) -> None:
    def listen(backlog: int) -> Steps:
        listener = listen_on_any_port(backlog)
        established = yield listener.getsockname()[1]
        for _ in range(established):
            connection, _ = listener.accept()
            connection.sendall(b"served")
            connection.close()
        yield "done"

    with guest.start(listen, 4) as task:
        port = task.ready
        clients = connect_until_refused(vsock, port, 64)
        assert 0 < len(clients) < 64
        assert task.send(len(clients)) == "done"
        assert [receive_all(client) for client in clients] == [b"served"] * len(clients)
        for client in clients:
            client.close()


@requirement("VSOCK-PORT-001")
def test_a_port_can_be_used_again_after_its_listener_closed(guest: Guest, vsock: Vsock) -> None:
    with guest.serve(echo) as first:
        port = first.port
    with pytest.raises(ConnectionRefusedError):
        vsock.connect(port)
    with guest.serve(echo, port=port) as again, vsock.connect(again.port) as client:
        client.sendall(b"again")
        assert receive_exactly(client, 5) == b"again"


@requirement("VSOCK-CID-001")
def test_the_addresses_are_the_ones_that_were_given(guest: Guest, vsock: Vsock) -> None:
    def addresses() -> Steps:
        import fcntl
        import struct

        with open("/dev/vsock", "rb") as device:
            local_cid_request = 0x7B9  # IOCTL_VM_SOCKETS_GET_LOCAL_CID, linux/vm_sockets.h
            own = struct.unpack("=I", fcntl.ioctl(device, local_cid_request, b"\0" * 4))[0]
        listener = listen_on_any_port()
        yield listener.getsockname()[1]
        connection, peer = listener.accept()
        yield [own, connection.getsockname()[0], peer[0]]

    with guest.start(addresses) as task, vsock.connect(task.ready):
        assert task.send() == [guest.cid, guest.cid, socket.VMADDR_CID_HOST]
