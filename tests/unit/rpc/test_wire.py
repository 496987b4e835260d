# SPDX-License-Identifier: Apache-2.0
"""Frames and envelopes, against hand-made bytes and against the protobuf library."""

from __future__ import annotations

import contextlib
import random
import struct
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from kvtest.errors import FrameError
from kvtest.rpc import frames
from kvtest.rpc.envelope import Request, Response

STRING, BYTES, INT64, INT32, MESSAGE = 9, 12, 3, 5, 11


@pytest.fixture(scope="module")
def classes() -> dict[str, Any]:
    """Request, Response and Status as ttrpc's request.proto has them, from the library."""
    file = descriptor_pb2.FileDescriptorProto(name="ttrpc.proto", package="t", syntax="proto3")
    layout: dict[str, list[tuple[str, int, int]]] = {
        "Status": [("code", 1, INT32), ("message", 2, STRING)],
        "Request": [("service", 1, STRING), ("method", 2, STRING), ("payload", 3, BYTES), ("timeout_nano", 4, INT64)],
        "Response": [("status", 1, MESSAGE), ("payload", 2, BYTES)],
    }
    for name, fields in layout.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            added = message.field.add(name=field, number=number, type=kind, label=1)
            if kind == MESSAGE:
                added.type_name = ".t.Status"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}")) for name in layout}


@pytest.mark.parametrize("seed", range(30))
def test_requests_and_responses_are_what_protobuf_makes(classes: dict[str, Any], seed: int) -> None:
    chance = random.Random(seed)
    text = "".join(chance.choice("aß€😀\0 ") for _ in range(chance.randrange(200)))
    request = Request(text, "M" * chance.randrange(9), chance.randbytes(chance.randrange(400)), chance.getrandbits(62))
    theirs = classes["Request"](
        service=request.service, method=request.method, payload=request.payload, timeout_nano=request.timeout
    )
    assert classes["Request"].FromString(request.encode()) == theirs
    assert Request.decode(theirs.SerializeToString()) == request
    response = Response(chance.choice([0, 5, 14, -1]), text, chance.randbytes(chance.randrange(400)))
    status = classes["Status"](code=response.code, message=response.message) if response.code else None
    theirs = classes["Response"](status=status, payload=response.payload)
    assert classes["Response"].FromString(response.encode()) == theirs
    decoded = Response.decode(theirs.SerializeToString())
    assert decoded == (response if response.code else response._replace(message=""))


def test_unknown_fields_are_skipped() -> None:
    known = Request("s", "m", b"p", 1).encode()
    unknown = b"\x2a\x03abc" + b"\x35\x01\x02\x03\x04" + b"\x39" + bytes(8) + b"\x78\x05"
    assert Request.decode(unknown + known) == Request("s", "m", b"p", 1)


@pytest.mark.parametrize(
    "data",
    [b"\x0a", b"\x0a\x05abc", b"\x02\x00", b"\x0b", b"\xff" * 11, b"\x0a\x02\xff\xfe", b"\x08\x01", b"\x22\x01a"],
    ids=["no length", "too short", "field 0", "wire type 3", "long number", "not UTF-8", "number", "bytes"],
)
def test_malformed_messages_are_refused(data: bytes) -> None:
    with pytest.raises(FrameError, match="malformed message"):
        Request.decode(data)


@pytest.mark.parametrize("seed", range(50))
def test_random_bytes_are_decoded_or_refused(seed: int) -> None:
    data = random.Random(seed).randbytes(60)
    for kind in (Request, Response):
        with contextlib.suppress(FrameError):
            kind.decode(data)


def test_a_frame_byte_by_byte() -> None:
    data = frames.encode(1, frames.REQUEST, b"first") + frames.encode(3, frames.REQUEST, b"")
    assert data[:10] == struct.pack(">IIBB", 5, 1, 1, 0)
    parser = frames.Parser(frames.REQUEST)
    found = [frame for byte in data for frame in parser.feed(bytes([byte]))]
    assert found == [frames.Frame(1, frames.REQUEST, b"first"), frames.Frame(3, frames.REQUEST, b"")]
    parser.end()


def test_a_frame_over_the_limit_is_skipped_and_the_next_is_read() -> None:
    size = frames.DATA_LIMIT + 1
    parser = frames.Parser(frames.REQUEST)
    found = list(parser.feed(struct.pack(">IIBB", size, 1, 1, 0)))
    assert found == [frames.Frame(1, frames.REQUEST, None)]
    rest = bytes(size) + frames.encode(3, frames.REQUEST, b"next")
    assert list(parser.feed(rest)) == [frames.Frame(3, frames.REQUEST, b"next")]


@pytest.mark.parametrize(("header", "message"), [((0, 2, 1), "stream 2"), ((0, 1, 2), "type 2"), ((0, 1, 3), "type 3")])
def test_what_is_not_ttrpc_is_refused(header: tuple[int, int, int], message: str) -> None:
    with pytest.raises(FrameError, match=message):
        list(frames.Parser(frames.REQUEST).feed(struct.pack(">IIBB", *header, 0)))


def test_an_end_inside_a_frame_is_refused() -> None:
    parser = frames.Parser(frames.REQUEST)
    list(parser.feed(b"\0\0\0"))
    with pytest.raises(FrameError, match="middle of a frame"):
        parser.end()


def test_too_much_data_cannot_be_sent() -> None:
    frames.encode(1, frames.REQUEST, bytes(frames.DATA_LIMIT))
    with pytest.raises(FrameError, match="limit"):
        frames.encode(1, frames.REQUEST, bytes(frames.DATA_LIMIT + 1))
