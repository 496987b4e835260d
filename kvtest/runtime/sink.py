# SPDX-License-Identifier: Apache-2.0
"""Where shims send their events: containerd's events service, in place of containerd."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import threading
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from kvtest.errors import FrameError, RPCError
from kvtest.rpc.api import load
from kvtest.rpc.server import Call, Connection
from kvtest.rpc.status import Code
from kvtest.runtime.events import Event, decode

_SERVICE = "containerd.services.events.ttrpc.v1.Events"
_CHUNK = 1 << 16
# What containerd takes (core/events/exchange, validateEnvelope); anything else it refuses, and nobody hears of it.
_NAME = r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*"
_NAMESPACE = re.compile(_NAME)
_TOPIC = re.compile(f"(?:/{_NAME})+")


class Sink(StrEnum):
    """How the events service of a pod behaves."""

    LIVE = "live"
    DEAD = "dead"  # nobody listens
    MUTE = "mute"  # it takes connections and never answers


class EventService:
    """Serves one pod's shims on a thread of its own.

    Args:
        path: Its socket.
        take: Called with each event, on that thread.
        sink: How it behaves.
    """

    def __init__(self, path: Path, take: Callable[[Event], None], sink: Sink = Sink.LIVE) -> None:
        self.path = path
        self._take = take
        self._sink = sink
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._listener: socket.socket | None = None
        if sink is not Sink.DEAD:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(path))
            self._listener.listen()
            self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="kvtest-events", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                stream = key.fileobj
                assert isinstance(stream, socket.socket)
                if stream is self._wake:
                    return
                if stream is self._listener:
                    client, _ = stream.accept()
                    client.setblocking(True)
                    services = {_SERVICE: {"Forward": self._forward}}
                    self._selector.register(client, selectors.EVENT_READ, Connection(services, client.sendall))
                elif self._sink is Sink.MUTE:
                    self._drop(stream, ended=not stream.recv(_CHUNK))
                else:
                    self._feed(stream, key.data)

    def _feed(self, stream: socket.socket, connection: Connection) -> None:
        ended = True
        with contextlib.suppress(OSError, FrameError):
            if data := stream.recv(_CHUNK):
                connection.feed(data)
                ended = False
        self._drop(stream, ended=ended)

    def _drop(self, stream: socket.socket, *, ended: bool) -> None:
        if ended:
            self._selector.unregister(stream)
            stream.close()

    def _forward(self, call: Call) -> bytes:
        request = load("events").message("containerd.services.events.ttrpc.v1.ForwardRequest")
        envelope = request.FromString(call.payload).envelope
        _validate(envelope)
        event = decode(envelope)
        if event is not None:
            self._take(event)
        return b""

    def close(self) -> None:
        """Serve no more."""
        self._waker.send(b"\0")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
        self._waker.close()
        self.path.unlink(missing_ok=True)


def _validate(envelope: Any) -> None:
    """Refuse what containerd refuses.

    Raises:
        RPCError: It would.
    """
    if not _NAMESPACE.fullmatch(envelope.namespace):
        raise RPCError(Code.INVALID_ARGUMENT, f"an event in the namespace {envelope.namespace!r}")
    if not _TOPIC.fullmatch(envelope.topic):
        raise RPCError(Code.INVALID_ARGUMENT, f"an event under the topic {envelope.topic!r}")
    if not envelope.timestamp.ByteSize():
        raise RPCError(Code.INVALID_ARGUMENT, "an event without a time")
