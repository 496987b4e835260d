# SPDX-License-Identifier: Apache-2.0
"""Both ends of a conversation: small functions that suites run in the guest, and their counterparts on the host.

Those that take a connected socket run on either side. Nothing here uses more than the standard library, because the
guest gets the functions as source.
"""

from __future__ import annotations

import hashlib
import random
import select
import socket
from collections.abc import Iterator

from kvtest.deadline import Deadline

CHUNK = 256 * 1024


def receive_exactly(connection: socket.socket, size: int) -> bytes:
    """Return the next ``size`` bytes.

    Args:
        connection: A connected stream socket.
        size: Number of bytes.

    Raises:
        EOFError: The peer ended before that; the message says after how many bytes.
    """
    received = bytearray()
    while len(received) < size:
        part = connection.recv(min(size - len(received), CHUNK))
        if not part:
            raise EOFError(f"the stream ended after {len(received)} of {size} bytes")
        received += part
    return bytes(received)


def receive_all(connection: socket.socket) -> bytes:
    """Return everything up to the peer's end of stream."""
    received = bytearray()
    while part := connection.recv(CHUNK):
        received += part
    return bytes(received)


def listen_on_any_port(backlog: int = 128) -> socket.socket:
    """Return a socket that listens on a free vsock port; for the guest.

    Args:
        backlog: Length of the listen queue.
    """
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
    listener.listen(backlog)
    return listener


def echo(connection: socket.socket) -> None:
    """Send back whatever comes, until the peer ends its side."""
    buffer = memoryview(bytearray(CHUNK))  # one for all: a new one each time costs more than the echo
    while size := connection.recv_into(buffer):
        connection.sendall(buffer[:size])


def pattern(seed: int, size: int) -> bytes:
    """Return ``size`` bytes that follow from ``seed`` and repeat nowhere that matters.

    A block of prime length is repeated, so that a lost, doubled or swapped packet of any size changes the checksum.
    """
    return b"".join(pattern_pieces(seed, size))


def pattern_pieces(seed: int, size: int) -> Iterator[bytes]:
    """Yield :func:`pattern` in pieces, for who has no room for all of it."""
    block = random.Random(seed).randbytes(65521)
    for left in range(size, 0, -len(block)):
        yield block[:left]


def receive_checksum(connection: socket.socket) -> tuple[int, str]:
    """Return number and SHA-256 of all bytes up to the end of stream."""
    digest, size = hashlib.sha256(), 0
    while data := connection.recv(CHUNK):
        digest.update(data)
        size += len(data)
    return size, digest.hexdigest()


def receive_checksum_of(connection: socket.socket, size: int) -> str:
    """Return the SHA-256 of the next ``size`` bytes.

    Raises:
        EOFError: The peer ended before that.
    """
    digest, received = hashlib.sha256(), 0
    while received < size:
        part = connection.recv(min(size - received, CHUNK))
        if not part:
            raise EOFError(f"the stream ended after {received} of {size} bytes")
        digest.update(part)
        received += len(part)
    return digest.hexdigest()


def fill(connection: socket.socket) -> int:
    """Send zeros until nothing more is taken at once; return how many bytes were. The connection stays non-blocking."""
    connection.setblocking(False)
    sent = 0
    while True:
        try:
            sent += connection.send(bytes(CHUNK))
        except BlockingIOError:
            return sent


def ended_within(connections: list[socket.socket], seconds: float) -> int:
    """Return how many connections were ended by their peers: end of stream or reset, whatever came before.

    Args:
        connections: Connected stream sockets; they are read to the end.
        seconds: How long to wait for all of them together.
    """
    deadline = Deadline(seconds)
    poll = select.poll()
    alive = {connection.fileno(): connection for connection in connections}
    for descriptor in alive:
        poll.register(descriptor, select.POLLIN)
    while alive:
        ready = poll.poll(deadline.remaining_ms)
        if not ready:
            break
        for descriptor, _ in ready:
            try:
                ended = not alive[descriptor].recv(CHUNK)
            except ConnectionResetError:
                ended = True
            if ended:
                poll.unregister(descriptor)
                del alive[descriptor]
    return len(connections) - len(alive)
