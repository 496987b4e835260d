# SPDX-License-Identifier: Apache-2.0
"""A daemon that was told to expect one request serves it, and whatever else comes instead."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvtest.control import GuestControl
from kvtest.errors import GuestError
from kvtest.guest import first_request, identity
from kvtest.guest.first_request import PERSONALIZE, FirstRequest
from kvtest.guest.messages import SERVICE, pack, unpack
from kvtest.host.local import LocalHost
from kvtest.rpc import frames
from kvtest.rpc.envelope import Request, Response

STREAM = 7
RECORD = identity.record("a-name", "0" * 32, bytes(range(64)), 1_000_000_000)


def request(record: bytes, stream: int = STREAM, timeout: int = 0) -> bytes:
    """Return a frame as the host sends it."""
    return frames.encode(stream, frames.REQUEST, Request(SERVICE, PERSONALIZE, pack({}) + record, timeout).encode())


def receive(stream: socket.socket, size: int) -> bytes:
    """Return what comes next."""
    return stream.recv(size, socket.MSG_WAITALL) if size else b""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the machine would have been made, which is this one."""
    records: list[bytes] = []

    class Told:
        def __init__(self, data: memoryview) -> None:
            self._data = data

        def apply(self) -> None:
            records.append(bytes(self._data))

        def close(self) -> None:
            pass

    monkeypatch.setattr(first_request, "Personalization", Told)
    return records


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_the_request(channel: tuple[socket.socket, socket.socket], told: list[bytes]) -> None:
    ours, theirs = channel
    ours.sendall(request(RECORD))
    assert FirstRequest(STREAM, theirs.fileno()).serve() is None
    assert told == [RECORD]
    (frame,) = frames.Parser(frames.RESPONSE).feed(ours.recv(1 << 16))
    assert frame.stream == STREAM
    assert frame.data is not None
    response = Response.decode(frame.data)
    assert (response.code, unpack(response.payload)) == (0, ({}, b""))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(request(RECORD, stream=STREAM + 2), id="another number"),
        pytest.param(request(RECORD[:-1]), id="too short"),
        pytest.param(request(RECORD)[:-1], id="a part"),
        pytest.param(request(RECORD, timeout=1), id="with a deadline"),
        pytest.param(frames.encode(STREAM, frames.REQUEST, Request(SERVICE, "Ping", pack({})).encode()), id="ping"),
    ],
)
def test_something_else_is_left_to_others(
    channel: tuple[socket.socket, socket.socket], told: list[bytes], data: bytes
) -> None:
    ours, theirs = channel
    ours.sendall(data)
    begin = FirstRequest(STREAM, theirs.fileno()).serve()
    assert begin
    assert begin + receive(theirs, len(data) - len(begin)) == data
    assert told == []
    with pytest.raises(BlockingIOError):
        ours.recv(1, socket.MSG_DONTWAIT)


def test_what_the_kernel_refuses_is_left_to_others(
    channel: tuple[socket.socket, socket.socket], told: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: object) -> None:
        raise PermissionError

    monkeypatch.setattr("kvtest.guest.first_request.Personalization.apply", refuse)
    ours, theirs = channel
    ours.sendall(request(RECORD))
    assert FirstRequest(STREAM, theirs.fileno()).serve() == request(RECORD)


def test_a_daemon_serves_what_comes_instead(tmp_path: Path) -> None:
    host = LocalHost(tmp_path)
    try:
        for _ in range(2):
            host.expect_personalize()
            assert host.ping()["release"]
        host.expect_personalize()
        large = bytes(range(256)) * 4096
        host.write_file(str(tmp_path / "large"), large)
        assert (tmp_path / "large").read_bytes() == large
        host.expect_personalize()
        assert host.run(["echo", "on"]).text == "on"
    finally:
        host.close()


def test_no_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = LocalHost(tmp_path)
    try:
        for expected in (True, False):
            if expected:
                host.expect_personalize()
            with monkeypatch.context() as wrong:
                wrong.setattr(identity, "record", lambda *_: b"short")
                with pytest.raises(GuestError, match="no identity"):
                    GuestControl.personalize(host, "name")
            assert host.ping()["release"]
    finally:
        host.close()


def test_a_daemon_that_expects_ends_with_its_channel(tmp_path: Path) -> None:
    host = LocalHost(tmp_path)
    host.expect_personalize()
    host.close()
