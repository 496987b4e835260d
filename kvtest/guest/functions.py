# SPDX-License-Identifier: Apache-2.0
"""Python functions that the host sends as source; each runs in a process of its own.

A generator function is run step by step: each request resumes it, each value that it yields is a reply. A step that
takes long holds up nobody else.
"""

from __future__ import annotations
import __future__

import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Generator
from typing import Any

from kvtest.errors import RPCError
from kvtest.guest.libc import die_with_parent
from kvtest.guest.messages import pack, unpack
from kvtest.guest.reactor import Reactor, Writer
from kvtest.rpc.server import Call
from kvtest.rpc.status import Code

_CHUNK = 1 << 16
_LENGTH = 4


class Function:
    """A function that runs.

    Args:
        reactor: Watches its answers.
        document: What the host sent: ``sources``, ``name`` and ``arguments``.
        close_in_child: Gives back what a child must not inherit.
    """

    def __init__(self, reactor: Reactor, document: dict[str, Any], close_in_child: Callable[[], None]) -> None:
        self._reactor = reactor
        self._name = str(document["name"])
        self._waiting: Call | None = None
        self._received = bytearray()
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                die_with_parent(parent)
                close_in_child()
                os.setsid()
                os.closerange(3, theirs.fileno())
                os.closerange(theirs.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
                _run(theirs, document)
            finally:
                os._exit(0)
        theirs.close()
        self._socket = ours
        self._writer = Writer(reactor, ours.fileno(), lambda _error: None)  # its end is told by reading
        reactor.watch(ours.fileno(), selectors.EVENT_READ, self._read)

    def step(self, call: Call, value: Any) -> None:
        """Resume it with a value, and answer when it yields, returns or raises."""
        if self._waiting is not None and not self._waiting.answered:
            raise RPCError(Code.FAILED_PRECONDITION, f"{self._name} has not answered the step before")
        if self._socket.fileno() < 0:
            raise RPCError(Code.FAILED_PRECONDITION, f"{self._name} has ended")
        self._waiting = call
        message = pack({"value": value})
        self._writer.write(len(message).to_bytes(_LENGTH, "big") + message)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except ConnectionResetError:
            data = b""
        if not data:
            self._lost()
            return
        self._received += data
        size = int.from_bytes(self._received[:_LENGTH], "big")
        if len(self._received) >= _LENGTH + size > _LENGTH:
            message = bytes(self._received[_LENGTH : _LENGTH + size])
            del self._received[: _LENGTH + size]
            if self._waiting is not None:
                self._waiting.reply(message)

    def _lost(self) -> None:
        self._reactor.forget(self._socket.fileno())
        self._socket.close()
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        if self._waiting is not None:
            self._waiting.fail(Code.ABORTED, f"the process of {self._name} {how}")

    def close(self) -> None:
        """Kill it, with all processes of its session's first process group."""
        if self.pid:
            os.killpg(self.pid, signal.SIGKILL)
            self._lost()


def _run(connection: socket.socket, document: dict[str, Any]) -> None:
    """Run the function in this process, answering steps until it has returned or raised."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.set_blocking(connection.fileno(), True)
    try:
        _receive(connection)  # the first step only starts it
        result = load(document)(*document["arguments"])
        if hasattr(result, "send"):
            result = _step_through(connection, result)
        _send(connection, {"returned": result})
    except EOFError:
        return
    except BaseException as error:
        _send(connection, {"raised": type(error).__name__, "message": str(error), "traceback": _traceback(error)})


def _step_through(connection: socket.socket, steps: Generator[Any, Any, Any]) -> Any:
    value = None
    while True:
        try:
            yielded = steps.send(value)
        except StopIteration as stop:
            return stop.value
        _send(connection, {"yielded": yielded})
        value = _receive(connection)["value"]


def load(document: dict[str, Any]) -> Callable[..., Any]:
    """Compile a function that the host sent, under the file name and at the line that it has on the host.

    Annotations are not evaluated: they name types that only the host has.
    """
    import linecache

    namespace: dict[str, Any] = {"__name__": "kvtest_shipped"}
    for statement in document["imports"]:
        exec(statement, namespace)  # noqa: S102 - running the host's code is what a guest is for
    namespace.update(document["values"])
    for source in document["sources"]:
        filename, line = source["filename"], source["line"]
        text = "\n" * (line - 1) + source["text"]
        code = compile(text, filename, "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)
        exec(code, namespace)  # noqa: S102
        lines = linecache.cache.get(filename, (0, None, [], filename))[2]
        padded = [*lines, *[""] * (line - 1 - len(lines))]
        added = source["text"].splitlines(keepends=True)
        linecache.cache[filename] = (1, None, [*padded[: line - 1], *added, *padded[line - 1 + len(added) :]], filename)
    loaded: Callable[..., Any] = namespace[document["name"]]
    return loaded


def _traceback(error: BaseException) -> str:
    import traceback

    here = error.__traceback__.tb_next if error.__traceback__ is not None else None
    return "".join(traceback.format_exception(type(error), error, here))


def _send(connection: socket.socket, document: dict[str, Any]) -> None:
    try:
        message = pack(document)
    except TypeError as error:
        message = pack({"raised": "TypeError", "message": str(error), "traceback": ""})
    sys.stdout.flush()
    connection.sendall(len(message).to_bytes(_LENGTH, "big") + message)


def _receive(connection: socket.socket) -> dict[str, Any]:
    received = bytearray()
    size = _LENGTH
    while len(received) < size:
        data = connection.recv(size - len(received))
        if not data:
            raise EOFError
        received += data
        if size == _LENGTH and len(received) == _LENGTH:
            size += int.from_bytes(received, "big")
    return unpack(bytes(received[_LENGTH:]))[0]
