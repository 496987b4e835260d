# SPDX-License-Identifier: Apache-2.0
"""What suites say of a stream that is not what was sent."""

from __future__ import annotations

import socket

import pytest

from kvtest.peers import CHUNK, PERIOD, compare, pattern, pattern_pieces, received_pieces

SIZE = 3 * CHUNK + 17


@pytest.mark.parametrize("length", [1, PERIOD - 1, CHUNK])
def test_the_pattern_is_known_in_pieces_of_any_size(length: int) -> None:
    whole = pattern(1, SIZE)
    assert compare((whole[start : start + length] for start in range(0, 5 * CHUNK, length)), 1) == f"{SIZE} bytes"


def test_the_pieces_of_the_pattern_are_the_pattern() -> None:
    assert compare(pattern_pieces(1, SIZE), 1) == f"{SIZE} bytes"
    assert b"".join(pattern_pieces(1, SIZE)) == pattern(1, SIZE)


@pytest.mark.parametrize("place", [0, PERIOD, SIZE - 1])
def test_the_first_byte_that_differs_is_told_and_the_rest_is_taken(place: int) -> None:
    sent = bytearray(pattern(1, SIZE))
    sent[place] ^= 0x80
    sent[-1] ^= 0x80 if place < SIZE - 1 else 0
    pieces = iter([bytes(sent[start : start + CHUNK]) for start in range(0, SIZE, CHUNK)])
    assert compare(pieces, 1) == f"byte {place} of {SIZE} differs"
    assert next(pieces, None) is None


def test_a_lost_packet_shows() -> None:
    whole = pattern(1, SIZE)
    assert compare([whole[:5000], whole[9096 : 9096 + CHUNK]], 1) == f"byte 5000 of {5000 + CHUNK} differs"


def test_another_pattern_differs_and_nothing_is_no_difference() -> None:
    assert compare(pattern_pieces(2, 100), 1).startswith("byte ")
    assert compare([], 1) == "0 bytes"


def test_a_stream_is_read_to_its_end_or_as_far_as_asked() -> None:
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.sendall(b"abcdef")
        assert b"".join(received_pieces(reader, 4)) == b"abcd"
        writer.shutdown(socket.SHUT_WR)
        assert b"".join(received_pieces(reader, 4)) == b"ef"
        assert b"".join(received_pieces(reader)) == b""
