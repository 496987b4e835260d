# SPDX-License-Identifier: Apache-2.0
"""Many clients on one vsock port."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvtest import Guest, Steps, Vsock, requirement
from kvtest.comparison import assert_equal
from kvtest.peers import echo, fill, listen_on_any_port, pattern, receive_all, receive_exactly

PATIENCE = 30.0
SMALL_BUFFER = 4096


@requirement("VSOCK-CLIENTS-002")
@pytest.mark.parametrize("count", [1, 8, 64])
def test_each_client_gets_only_its_own_bytes(guest: Guest, vsock: Vsock, count: int) -> None:
    messages = [b"client %d of %d" % (number, count) for number in range(count)]
    with guest.serve(echo) as service, vsock.connect_many(service.port, count) as clients:
        for client, message in zip(clients, messages, strict=True):
            client.sendall(message)
        answers = [receive_exactly(client, len(message)) for client, message in zip(clients, messages, strict=True)]
        assert answers == messages
        for client in clients:
            client.shutdown(socket.SHUT_WR)
        assert [receive_all(client) for client in clients] == [b""] * count


@requirement("VSOCK-CLIENTS-001")
def test_clients_are_served_at_once(guest: Guest, vsock: Vsock) -> None:
    """The last client is answered while all the others are connected and silent."""
    with guest.serve(echo) as service, vsock.connect_many(service.port, 16) as clients:
        for client in reversed(clients):
            client.sendall(b"now")
            assert receive_exactly(client, 3) == b"now"


@requirement("VSOCK-CLIENTS-002")
def test_streams_of_many_clients_do_not_mix(guest: Guest, vsock: Vsock) -> None:
    size = 1 << 20

    def converse(number: int, client: socket.socket) -> bool:
        payload = pattern(number, size)
        with ThreadPoolExecutor(1) as sender:
            sending = sender.submit(client.sendall, payload)
            answer = receive_exactly(client, size)
            sending.result()
        return answer == payload

    with guest.serve(echo) as service, vsock.connect_many(service.port, 8) as clients, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(converse, range(8), clients, timeout=PATIENCE)) == [True] * 8


@requirement("VSOCK-CLIENTS-003")
def test_a_client_that_never_reads_stalls_nobody(guest: Guest, vsock: Vsock) -> None:
    def flood() -> Steps:
        with listen_on_any_port() as listener:
            yield listener.getsockname()[1]
            connection, _ = listener.accept()
            with connection:
                yield fill(connection)

    with guest.start(flood) as task, guest.serve(echo) as service, vsock.connect(task.ready):
        assert task.send() >= SMALL_BUFFER  # no more goes in, and nobody takes any
        with vsock.connect_many(service.port, 4) as clients:
            payload = pattern(1, 256 << 10)
            for client in clients:
                with ThreadPoolExecutor(1) as sender:
                    sending = sender.submit(client.sendall, payload)
                    assert_equal(receive_exactly(client, len(payload)), payload)
                    sending.result()


@requirement("VSOCK-CLIENTS-003")
def test_a_guest_that_never_reads_one_stream_still_serves_others(guest: Guest, vsock: Vsock) -> None:
    def accept_and_ignore() -> Steps:
        with listen_on_any_port() as listener:
            # With little room in the guest, what waits in the host is more than it takes.
            listener.setsockopt(socket.AF_VSOCK, socket.SO_VM_SOCKETS_BUFFER_SIZE, SMALL_BUFFER)
            yield listener.getsockname()[1]
            connection, _ = listener.accept()
            with connection:
                yield "accepted"

    with guest.start(accept_and_ignore) as task, guest.serve(echo) as service, vsock.connect(task.ready) as stuck:
        assert task.send() == "accepted"
        assert fill(stuck) >= SMALL_BUFFER  # a kernel takes no more than the guest has room for
        with vsock.connect(service.port) as client:
            payload = pattern(2, 1 << 20)
            with ThreadPoolExecutor(1) as sender:
                sending = sender.submit(client.sendall, payload)
                assert_equal(receive_exactly(client, len(payload)), payload)
                sending.result()
