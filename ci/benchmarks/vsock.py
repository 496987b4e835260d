# SPDX-License-Identifier: Apache-2.0
"""The vsock device: throughput each way, and the round trip."""

from __future__ import annotations

import socket
import time

from benchmarks.figures import Bench, Figures, figure
from kvtest.harness import Guest, GuestRequest
from kvtest.peers import echo, receive_all, receive_exactly

TRANSFER = 256 << 20
TRANSFERS = 5
ROUND_TRIPS = 2000


def vsock_figures(bench: Bench) -> Figures:
    """Yield what one connection at a time can do."""
    with bench.factory.boot(bench.factory.configuration(GuestRequest())) as guest:
        with guest.serve(discard) as service:
            throughput = [to_guest(guest, service.port) for _ in range(TRANSFERS)]
            yield "vsock_host_to_guest", figure(throughput, "MB/s", 200, at_least=True)
        with guest.serve(flood) as service:
            yield "vsock_guest_to_host", figure([from_guest(guest, service.port) for _ in range(TRANSFERS)], "MB/s")
        with guest.serve(echo) as service, guest.vsock.connect(service.port) as connection:
            trips = [round_trip(connection) for _ in range(ROUND_TRIPS)]
            yield "vsock_round_trip_64_bytes", figure(trips, "us", 500)


def discard(connection: socket.socket) -> None:
    """Read to the end, then say how much it was; runs in the guest."""
    buffer, size = bytearray(1 << 20), 0
    while received := connection.recv_into(buffer):
        size += received
    connection.sendall(b"%d" % size)


def flood(connection: socket.socket) -> None:
    """Send as many bytes as the first line asks for; runs in the guest."""
    with connection.makefile("rb") as stream:
        left = int(stream.readline())
    chunk = bytes(1 << 20)
    while left:
        left -= connection.send(chunk[:left])


def to_guest(guest: Guest, port: int) -> float:
    """Return the MB/s of one transfer to :func:`discard`."""
    chunk = bytes(1 << 20)
    with guest.vsock.connect(port, timeout=120) as connection:
        begin = time.perf_counter()
        for _ in range(TRANSFER // len(chunk)):
            connection.sendall(chunk)
        connection.shutdown(socket.SHUT_WR)
        assert receive_all(connection) == b"%d" % TRANSFER
        return TRANSFER / 1e6 / (time.perf_counter() - begin)


def from_guest(guest: Guest, port: int) -> float:
    """Return the MB/s of one transfer from :func:`flood`."""
    buffer, size = bytearray(1 << 20), 0
    with guest.vsock.connect(port, timeout=120) as connection:
        begin = time.perf_counter()
        connection.sendall(b"%d\n" % TRANSFER)
        while received := connection.recv_into(buffer):
            size += received
        assert size == TRANSFER
        return TRANSFER / 1e6 / (time.perf_counter() - begin)


def round_trip(connection: socket.socket) -> float:
    """Return the microseconds that 64 bytes take to an echo and back."""
    begin = time.perf_counter()
    connection.sendall(b"x" * 64)
    receive_exactly(connection, 64)
    return (time.perf_counter() - begin) * 1e6
