# SPDX-License-Identifier: Apache-2.0
"""A ttRPC server of threads: one reads from each connection, one answers each call."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen
from google.protobuf.message import DecodeError, Message

from kvtest.errors import DeadlineExceededError, FrameError, KvtestError, RPCError
from kvtest.rpc.api import API
from kvtest.rpc.server import Call, Connection
from kvtest.rpc.status import Code

_CHUNK = 1 << 16
_TOO_MANY = (errno.EMFILE, errno.ENFILE)
_AGAIN_SECONDS = 0.2
_CREDENTIALS = struct.Struct("=iII")  # struct ucred (unix(7))

# Takes a request and returns the answer; an empty one for None.
Method = Callable[[Any], "Message | Later | None"]


@frozen
class Later:
    """An answer that is to be waited for, as long as its client is there.

    Args:
        when: Is set when it can be given.
        answer: Gives it.
    """

    when: threading.Event
    answer: Callable[[], Message]


class Server:
    """Serves one service.

    Args:
        listener: A listening Unix socket.
        api: The API.
        service: Full name of the service.
        methods: Its methods.
    """

    def __init__(self, listener: socket.socket, api: API, service: str, methods: Mapping[str, Method]) -> None:
        self._listener = listener
        types = api.methods(service)
        self._services = {service: {name: _handler(types[name].request, method) for name, method in methods.items()}}
        self._freed = threading.Event()  # a connection has ended
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError as error:
                if error.errno not in _TOO_MANY:  # closed: the shim is about to end
                    return
                # They wait in the backlog. Descriptors are freed by other ends too, which nobody tells us of.
                self._freed.wait(_AGAIN_SECONDS)
                self._freed.clear()
                continue
            _, user, _ = _CREDENTIALS.unpack(
                stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            if user != os.geteuid():
                stream.close()
                continue
            threading.Thread(target=self._serve, args=(stream,), name="connection", daemon=True).start()

    def _serve(self, stream: socket.socket) -> None:
        sending = threading.Lock()

        def send(data: bytes) -> None:
            with sending, contextlib.suppress(OSError):  # whoever asked is gone
                stream.sendall(data)

        connection = Connection(self._services, send)
        with stream, contextlib.suppress(OSError, FrameError):
            while data := stream.recv(_CHUNK):
                connection.feed(data)
        connection.close()
        self._freed.set()


def _handler(request: type[Message], method: Method) -> Callable[[Call], None]:
    def handle(call: Call) -> None:
        threading.Thread(target=_answer, args=(call, request, method), name=call.method, daemon=True).start()

    return handle


def _answer(call: Call, request: type[Message], method: Method) -> None:
    try:
        answer = method(request.FromString(call.payload))
        if isinstance(answer, Later):
            call.when_abandoned(answer.when.set)
            answer.when.wait()
            if call.answered:  # by nobody: its client has gone
                return
            answer = answer.answer()
    except DecodeError:
        call.fail(Code.INVALID_ARGUMENT, f"the request is no {request.DESCRIPTOR.full_name}")
    except RPCError as error:
        call.fail(error.code, error.message)
    except DeadlineExceededError as error:
        call.fail(Code.DEADLINE_EXCEEDED, error.message)
    except KvtestError as error:
        call.fail(Code.FAILED_PRECONDITION, str(error))
    except Exception as error:
        call.fail(Code.INTERNAL, f"{type(error).__name__}: {error}")
        with contextlib.suppress(OSError):  # containerd reads the log as long as the first container is there
            sys.stderr.write(traceback.format_exc())
    else:
        call.reply(b"" if answer is None else answer.SerializeToString())
