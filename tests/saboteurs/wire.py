# SPDX-License-Identifier: Apache-2.0
"""Something between a shim and its clients that sees every call, and may change it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from kvtest.rpc import frames
from kvtest.rpc.api import load
from kvtest.rpc.client import Client
from kvtest.rpc.envelope import Request, Response
from kvtest.runtime import shim

_TASK = "containerd.task.v2"


class Fault:
    """What is between; this one changes nothing."""

    def request(self, request: Request) -> Request | Response | None:
        """Return what goes to the shim, an answer in its place, or nothing."""
        return request

    def response(self, request: Request, response: Response) -> Response | None:
        """Return what goes to the client, or nothing."""
        return response

    def ended(self) -> bool:
        """Return whether the client learns that the shim's connection has ended."""
        return True


class Wire:
    """One connection.

    Args:
        client: The client's end.
        server: The shim's end.
        fault: What is done to calls.
    """

    def __init__(self, client: socket.socket, server: socket.socket, fault: Fault) -> None:
        self._client, self._server, self._fault = client, server, fault
        self._asked: dict[int, Request] = {}
        self._lock = threading.Lock()
        for pump in (self._requests, self._responses):
            threading.Thread(target=pump, name="saboteur", daemon=True).start()

    def _requests(self) -> None:
        parser = frames.Parser(frames.REQUEST)
        with contextlib.suppress(OSError):
            while data := self._client.recv(1 << 18):
                for frame in parser.feed(data):
                    assert frame.data is not None
                    request = Request.decode(frame.data)
                    self._asked[frame.stream] = request
                    changed = self._fault.request(request)
                    if isinstance(changed, Response):
                        self._answer(frame.stream, changed)
                    elif changed is not None:
                        self._server.sendall(frames.encode(frame.stream, frames.REQUEST, changed.encode()))
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        if self._fault.ended():
            self._client.close()

    def _responses(self) -> None:
        parser = frames.Parser(frames.RESPONSE)
        with contextlib.suppress(OSError):
            while data := self._server.recv(1 << 18):
                for frame in parser.feed(data):
                    assert frame.data is not None
                    changed = self._fault.response(self._asked.pop(frame.stream), Response.decode(frame.data))
                    if changed is not None:
                        self._answer(frame.stream, changed)
        if self._fault.ended():
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _answer(self, stream: int, response: Response) -> None:
        with self._lock:
            self._client.sendall(frames.encode(stream, frames.RESPONSE, response.encode()))


@contextlib.contextmanager
def between(fault: Fault) -> Iterator[None]:
    """Put something between every shim and its clients."""
    wires: list[Wire] = []  # one that nobody holds is closed with its threads, and its client would see that

    def client(stream: socket.socket, name: str, ended: Callable[[], None] | None = None) -> Client:
        ours, theirs = socket.socketpair()
        wires.append(Wire(theirs, stream, fault))
        return Client(ours, name, ended=ended)

    with patch.object(shim, "Client", client):
        yield


def asked(request: Request, kind: str) -> Any:
    """Return what a request asks, decoded."""
    return load("task").message(f"{_TASK}.{kind}").FromString(request.payload)


def ok(**fields: Any) -> Response:
    """Return a good answer without a type of its own, or a WaitResponse."""
    payload = load("task").message(f"{_TASK}.WaitResponse")(**fields).SerializeToString() if fields else b""
    return Response(0, "", payload)


def altered(response: Response, kind: str, **fields: Any) -> Response:
    """Return an answer with other values."""
    message = load("task").message(f"{_TASK}.{kind}").FromString(response.payload)
    for name, value in fields.items():
        setattr(message, name, value(getattr(message, name)) if callable(value) else value)
    return Response(response.code, response.message, message.SerializeToString())
