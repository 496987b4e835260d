# SPDX-License-Identifier: Apache-2.0
"""Both ends of a conversation: small functions that suites run in the guest, and their counterparts on the host.

Those that take a connected socket run on either side. Nothing here uses more than the standard library, because the
guest gets the functions as source.
"""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Iterable, Iterator

from kvtest.deadline import Deadline

CHUNK = 256 * 1024
PERIOD = 65521  # bytes, of the pattern: a prime


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
    """Return ``size`` bytes that follow from ``seed``.

    A block of prime length is repeated, so that a lost, doubled or swapped packet of any size is seen.
    """
    return b"".join(pattern_pieces(seed, size))


def pattern_pieces(seed: int, size: int) -> Iterator[bytes]:
    """Yield :func:`pattern` in pieces, for who has no room for all of it."""
    block = random.Random(seed).randbytes(PERIOD)
    for left in range(size, 0, -len(block)):
        yield block[:left]


def compare(pieces: Iterable[bytes], seed: int) -> str:
    """Take all pieces, and say whether they are :func:`pattern`: ``42 bytes``, or ``byte 7 of 42 differs``, the first.

    A checksum would take an emulated guest ten times as long, and could not say where.

    Args:
        pieces: What came, in order, each of at most ``CHUNK`` bytes.
        seed: The pattern's.
    """
    expected = random.Random(seed).randbytes(PERIOD) * (CHUNK // PERIOD + 2)
    received, wrong = 0, None
    for piece in pieces:
        start = received % PERIOD
        if wrong is None and not expected.startswith(piece, start):
            wrong = received + next(n for n, byte in enumerate(piece) if byte != expected[start + n])
        received += len(piece)
    return f"{received} bytes" if wrong is None else f"byte {wrong} of {received} differs"


def received_pieces(connection: socket.socket, size: int | None = None) -> Iterator[bytes]:
    """Yield what comes, up to the peer's end of stream.

    Args:
        connection: A connected stream socket.
        size: After how many bytes to stop reading, if the peer goes on.
    """
    left = CHUNK if size is None else size
    while left and (piece := connection.recv(min(left, CHUNK))):
        left -= len(piece) if size is not None else 0
        yield piece


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
