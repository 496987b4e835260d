# SPDX-License-Identifier: Apache-2.0
"""Streams through the device, with the test as the guest."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvtest.peers import ended_within, fill, receive_all, receive_exactly
from kvtest.vsock import HybridVsock
from kvtest.vsock.device import VsockDevice
from kvtest.vsock.device.stream import Stream
from kvtest.vsock.device.switch import Switch, _add_space
from kvtest.vsock.device.vhost_user import Kind
from kvtest.vsock.packet import Operation, Packet, Shutdown

from .front_end import FrontEnd

PORT = 77


def connect(front_end: FrontEnd, hybrid: HybridVsock) -> tuple[socket.socket, Packet]:
    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(hybrid.connect, PORT)
        request = front_end.accept()
        return client.result(), request


def test_a_connection_carries_bytes_both_ways(front_end: FrontEnd, hybrid: HybridVsock) -> None:
    client, request = connect(front_end, hybrid)
    with client:
        client.sendall(b"to the guest")
        packet, data = front_end.receive()
        assert (packet.operation, data) == (Operation.RW, b"to the guest")
        assert (packet.source_cid, packet.destination_cid) == (2, 3)
        front_end.transmit(front_end.packet(Operation.RW, request.source_port, PORT, length=5), b"hello")
        assert receive_exactly(client, 5) == b"hello"


def test_a_refused_connection(front_end: FrontEnd, hybrid: HybridVsock) -> None:
    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(hybrid.connect, PORT)
        request, _ = front_end.receive()
        front_end.transmit(request.reset())
        with pytest.raises(ConnectionRefusedError):
            client.result()


def test_the_guest_connects(front_end: FrontEnd, hybrid: HybridVsock, device: VsockDevice) -> None:
    with hybrid.listen(99) as listener:
        front_end.transmit(front_end.packet(Operation.REQUEST, 99, 1234))
        with listener.accept() as server:
            response, _ = front_end.receive()
            assert (response.operation, response.source_port) == (Operation.RESPONSE, 99)
            assert response.buffer_allocation > 0
            front_end.transmit(front_end.packet(Operation.RW, 99, 1234, length=2), b"hi")
            assert receive_exactly(server, 2) == b"hi"
            assert device.connections == 1


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({}, id="nobody listens"),
        pytest.param({"type": 2}, id="seqpacket"),
        pytest.param({"destination_cid": 9}, id="another machine"),
        pytest.param({"source_cid": 9}, id="a false sender"),
    ],
)
def test_what_cannot_be_connected_is_reset(
    front_end: FrontEnd, hybrid: HybridVsock, device: VsockDevice, wrong: dict[str, int]
) -> None:
    with hybrid.listen(99):
        front_end.transmit(front_end.packet(Operation.REQUEST, 99 if wrong else 98, 1234, **wrong))
        packet, _ = front_end.receive()
    assert packet.operation == Operation.RST
    assert device.fault is None


@pytest.mark.parametrize("operation", [0, Operation.RW, Operation.SHUTDOWN, Operation.CREDIT_UPDATE, 99])
def test_a_packet_of_no_connection_is_reset(front_end: FrontEnd, operation: int) -> None:
    front_end.transmit(front_end.packet(operation, 5, 6))
    packet, _ = front_end.receive()
    assert (packet.operation, packet.source_port, packet.destination_port) == (Operation.RST, 5, 6)


def test_a_reset_of_no_connection_is_not_answered(front_end: FrontEnd, hybrid: HybridVsock) -> None:
    front_end.transmit(front_end.packet(Operation.RST, 5, 6))
    client, _ = connect(front_end, hybrid)  # its request is the first packet that comes
    client.close()


def test_the_host_ends_its_side(front_end: FrontEnd, hybrid: HybridVsock) -> None:
    client, request = connect(front_end, hybrid)
    with client:
        client.shutdown(socket.SHUT_WR)
        packet, _ = front_end.receive()
        assert (packet.operation, packet.flags) == (Operation.SHUTDOWN, Shutdown.SEND)
        front_end.transmit(front_end.packet(Operation.RW, request.source_port, PORT, length=4), b"more")
        assert receive_exactly(client, 4) == b"more"


def test_the_host_closes_and_the_guest_confirms(front_end: FrontEnd, hybrid: HybridVsock, device: VsockDevice) -> None:
    client, request = connect(front_end, hybrid)
    client.sendall(b"last words")
    client.close()
    assert front_end.receive()[1] == b"last words"
    packet, _ = front_end.receive()
    assert (packet.operation, packet.flags) == (Operation.SHUTDOWN, Shutdown.BOTH)
    assert device.connections == 1
    front_end.transmit(front_end.packet(Operation.RST, request.source_port, PORT))
    again, _ = connect(front_end, hybrid)
    assert device.connections == 1
    again.close()


def test_the_guest_ends_its_side(front_end: FrontEnd, hybrid: HybridVsock) -> None:
    client, request = connect(front_end, hybrid)
    with client:
        end = front_end.packet(Operation.SHUTDOWN, request.source_port, PORT, flags=Shutdown.SEND)
        front_end.transmit(end)
        assert receive_all(client) == b""
        client.sendall(b"still here")
        assert front_end.receive()[1] == b"still here"


def test_the_guest_closes_and_is_confirmed(front_end: FrontEnd, hybrid: HybridVsock, device: VsockDevice) -> None:
    client, request = connect(front_end, hybrid)
    with client:
        front_end.transmit(front_end.packet(Operation.RW, request.source_port, PORT, length=4), b"last")
        end = front_end.packet(Operation.SHUTDOWN, request.source_port, PORT, flags=Shutdown.BOTH)
        front_end.transmit(end)
        assert front_end.receive()[0].operation == Operation.RST
        assert receive_all(client) == b"last"
        assert device.connections == 0


def test_no_more_is_sent_than_the_guest_has_room_for(front_end: FrontEnd, hybrid: HybridVsock) -> None:
    front_end.allocation = 10_000
    client, request = connect(front_end, hybrid)
    with client:
        payload = bytes(range(256)) * 100
        client.sendall(payload)
        received = b""
        while len(received) < 10_000:
            received += front_end.receive()[1]
        assert len(received) == 10_000
        # A second stream gets through, and nothing of the first with it.
        other, _ = connect(front_end, hybrid)
        other.sendall(b"through")
        assert front_end.receive()[1] == b"through"
        front_end.forwarded = 10_000
        front_end.transmit(front_end.packet(Operation.CREDIT_UPDATE, request.source_port, PORT))
        while len(received) < 20_000:
            received += front_end.receive()[1]
        assert received == payload[:20_000]
        other.close()


def test_a_credit_request_is_answered(front_end: FrontEnd, hybrid: HybridVsock) -> None:
    client, request = connect(front_end, hybrid)
    with client:
        front_end.transmit(front_end.packet(Operation.CREDIT_REQUEST, request.source_port, PORT))
        packet, _ = front_end.receive()
        assert packet.operation == Operation.CREDIT_UPDATE
        assert packet.buffer_allocation > 0


def test_a_guest_that_exceeds_its_credit_loses_the_connection(
    front_end: FrontEnd, hybrid: HybridVsock, device: VsockDevice
) -> None:
    client, request = connect(front_end, hybrid)
    with client:
        data = bytes(16 * 1024)
        while True:  # the host does not read: what it has no room for stays in our buffer
            front_end.transmit(front_end.packet(Operation.RW, request.source_port, PORT, length=len(data)), data)
            answer = front_end.poll_packet()
            if answer is not None and answer.operation == Operation.RST:
                break
        assert device.fault is None
        assert ended_within([client], 20) == 1


def test_a_host_that_does_not_read_stalls_only_itself(front_end: FrontEnd, hybrid: HybridVsock) -> None:
    stuck, request = connect(front_end, hybrid)
    client, other = connect(front_end, hybrid)
    with stuck, client:
        data = bytes(32 * 1024)
        for _ in range(8):  # all its credit
            front_end.transmit(front_end.packet(Operation.RW, request.source_port, PORT, length=len(data)), data)
        front_end.transmit(front_end.packet(Operation.RW, other.source_port, PORT, length=2), b"ok")
        assert receive_exactly(client, 2) == b"ok"
        assert receive_exactly(stuck, 8 * len(data)) == bytes(8 * len(data))


def test_a_guest_without_buffers_gets_all_when_it_has_some(front_end: FrontEnd, hybrid: HybridVsock) -> None:
    client, _ = connect(front_end, hybrid)
    with client:
        sent = fill(client)
        received = 0
        while received < min(sent, front_end.allocation):
            received += len(front_end.receive()[1])
        assert received == min(sent, front_end.allocation)


@pytest.mark.parametrize(
    "line", [b"\n", b"CONNECT\n", b"CONNECT x\n", b"CONNECT 4294967296\n", b"connect 1\n", b"x" * 100, b"GET / HTTP\n"]
)
def test_a_bad_greeting_ends_only_its_connection(
    front_end: FrontEnd, hybrid: HybridVsock, device: VsockDevice, line: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(hybrid.path))
        client.sendall(line)
        assert ended_within([client], 20) == 1
    other, _ = connect(front_end, hybrid)
    other.close()
    assert device.fault is None


def test_a_greeting_in_pieces(front_end: FrontEnd, hybrid: HybridVsock) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(hybrid.path))
        client.sendall(b"CONN")
        client.sendall(b"ECT 77\n")
        front_end.accept()
        assert client.recv(3) == b"OK "


def test_half_a_greeting_keeps_nobody_busy(
    front_end: FrontEnd, hybrid: HybridVsock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[socket.socket] = []
    read_greeting = Switch._read_greeting

    def look(self: Switch, client: socket.socket) -> None:
        looks.append(client)
        read_greeting(self, client)

    monkeypatch.setattr(Switch, "_read_greeting", look)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(hybrid.path))
        client.sendall(b"CONN")
        others = [connect(front_end, hybrid)[0] for _ in range(10)]
        assert len(looks) == 11, "the device looked again and again at a greeting that did not go on"
        for other in others:
            other.close()


def test_what_comes_while_the_guest_is_paused_waits(
    front_end: FrontEnd, hybrid: HybridVsock, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = connect(front_end, hybrid)
    looks = []
    fill_chains = Switch._fill

    def look(self: Switch, stream: Stream, events: int) -> None:
        looks.append(stream)
        fill_chains(self, stream, events)

    monkeypatch.setattr(Switch, "_fill", look)
    with client, ThreadPoolExecutor(1) as pool:
        front_end.pause()
        client.sendall(b"while it slept")
        late = pool.submit(hybrid.connect, PORT)  # asks a guest that cannot answer
        for _ in range(10):
            front_end.ask(Kind.GET_FEATURES)
        assert len(looks) <= 1, "the device looked again and again at data that nobody takes"
        front_end.resume()
        packets = [front_end.receive() for _ in range(2)]
        assert [data for _, data in packets if data] == [b"while it slept"]
        (request,) = [packet for packet, _ in packets if packet.operation == Operation.REQUEST]
        front_end.transmit(front_end.packet(Operation.RESPONSE, request.source_port, request.destination_port))
        late.result(20).close()


def test_no_more_buffers_are_filled_than_a_system_call_takes() -> None:
    views: list[memoryview] = []
    buffers = [memoryview(bytearray(44)), *(memoryview(bytearray(8)) for _ in range(2000))]
    size = _add_space(buffers, 1 << 16, views)
    assert len(views) <= os.sysconf("SC_IOV_MAX")
    assert size == sum(map(len, views)) > 0


def test_a_host_process_is_turned_away_when_descriptors_run_out(
    front_end: FrontEnd, hybrid: HybridVsock, device: VsockDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 20, limits[1]))
        taken: list[int] = []
        try:
            with contextlib.suppress(OSError):  # EMFILE
                while True:
                    taken.append(os.dup(client.fileno()))
            client.connect(str(hybrid.path))
            assert ended_within([client], 20) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for descriptor in taken:
                os.close(descriptor)
    connect(front_end, hybrid)[0].close()
    assert device.fault is None


def test_without_a_guest_connections_are_refused(device: VsockDevice, hybrid: HybridVsock) -> None:
    with pytest.raises(ConnectionRefusedError):
        hybrid.connect(PORT)


def test_every_connection_ends_when_the_vmm_goes(front_end: FrontEnd, hybrid: HybridVsock, device: VsockDevice) -> None:
    clients = [connect(front_end, hybrid)[0] for _ in range(8)]
    front_end.socket.close()
    assert ended_within(clients, 20) == 8
    assert device.connections == 0
    for client in clients:
        client.close()


def test_another_guest_can_come_after_one_has_gone(
    device: VsockDevice, front_end: FrontEnd, hybrid: HybridVsock
) -> None:
    client, _ = connect(front_end, hybrid)
    front_end.socket.close()
    assert ended_within([client], 20) == 1
    client.close()
    second = FrontEnd(device.vhost_path)
    client, _ = connect(second, hybrid)
    client.close()
    second.close()


def test_closing_the_device_ends_everything(device: VsockDevice, front_end: FrontEnd, hybrid: HybridVsock) -> None:
    client, _ = connect(front_end, hybrid)
    device.close()
    assert ended_within([client], 20) == 1
    assert select.select([front_end.socket], [], [], 20)[0]
    assert front_end.socket.recv(1) == b""
    assert not device.hybrid_path.exists()
    client.close()


def test_a_client_that_has_said_nothing_yet_ends_with_the_device(device: VsockDevice, hybrid: HybridVsock) -> None:
    with contextlib.ExitStack() as stack:
        silent, other = (stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) for _ in range(2))
        for client in (silent, other):
            client.connect(str(hybrid.path))
        other.sendall(b"CONNECT 1\n")
        assert ended_within([other], 10.0) == 1  # there is no guest; whoever came before it has been accepted
        device.close()
        assert ended_within([silent], 10.0) == 1
