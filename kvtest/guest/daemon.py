# SPDX-License-Identifier: Apache-2.0
"""The control daemon: does in a guest what the host asks over one channel."""

from __future__ import annotations

import itertools
import os
import selectors
import sys
import time
from collections.abc import Callable
from typing import Any

from kvtest.errors import FrameError, RPCError
from kvtest.guest import identity, inventory
from kvtest.guest.children import Child
from kvtest.guest.first_request import PERSONALIZE, FirstRequest
from kvtest.guest.functions import Function
from kvtest.guest.messages import ATTACHMENT_LIMIT, SERVICE, pack, unpack
from kvtest.guest.ports import Ports
from kvtest.guest.reactor import Reactor, Writer
from kvtest.rpc.server import Call, Connection
from kvtest.rpc.status import Code

_CHUNK = 1 << 16


class Daemon:
    """Serves one channel until its other end is closed.

    Args:
        channel: Descriptor of the channel.
        ports: The machine's virtio-serial ports, if it has such.
    """

    def __init__(self, channel: int, ports: Ports | None = None) -> None:
        self._channel = channel
        self._ports = ports
        self._awaited: list[tuple[Call, Callable[[Ports], bool]]] = []
        self._buffer = bytearray(_CHUNK)  # one for all: a new one each time costs more than what is read
        self._reactor = Reactor()
        self._writer = Writer(self._reactor, channel, self._broken)
        methods = {
            "Ping": self._ping,
            "State": self._state,
            "AwaitPorts": self._await_ports,
            "AwaitVsock": self._await_vsock,
            PERSONALIZE: self._personalize,
            "ExpectPersonalize": self._expect_personalize,
            "ZeroFreeMemory": lambda _call: pack({"bytes": identity.zero_free_memory()}),
            "Settle": self._settle,
            "Start": self._start,
            "Next": self._next,
            "Write": self._write,
            "CloseInput": self._close_input,
            "Resize": self._resize,
            "Signal": self._signal,
            "Forget": self._forget,
            "Function": self._function,
            "Step": self._step,
            "Kill": self._kill,
            "Tidy": self._tidy,
            "ReadFile": self._read_file,
            "WriteFile": self._write_file,
            "Sockets": lambda _call: pack({"vsock": inventory.vsock_sockets(), "unix": inventory.unix_sockets()}),
            "Modules": lambda _call: pack({"modules": inventory.modules()}),
            "KernelLog": lambda _call: pack({"lines": inventory.kernel_log()}),
            "PowerOff": self._power_off,
        }
        self._connection = Connection({SERVICE: methods}, self._writer.write)
        self._numbers = itertools.count(1)
        self._children: dict[int, Child] = {}
        self._functions: dict[int, Function] = {}
        self._expected: int | None = None
        self._ending: str | None = None
        self._then: str = "end"

    def serve(self) -> str:
        """Serve until the other end is closed, or the host asks to power off.

        Returns:
            ``end`` or ``power off``.

        Raises:
            FrameError: What came is not ttRPC.
        """
        self._reactor.watch(self._channel, selectors.EVENT_READ, self._read)
        if self._ports is not None:
            self._reactor.watch(self._ports.events.fileno(), selectors.EVENT_READ, self._announced)
        while self._ending is None:
            if self._expected is not None and not self._writer.buffered:
                self._serve_first(self._expected)
                continue
            self._reactor.turn(self._connection.expire())
        self._connection.close()
        self._close_all()
        self._reactor.close()
        return self._then

    def _read(self) -> None:
        try:
            size = os.readv(self._channel, [self._buffer])
        except BlockingIOError:
            return
        except OSError as error:
            self._broken(error)
            return
        self._take(self._buffer[:size])

    def _take(self, data: bytes | bytearray) -> None:
        if not data:
            self._ending = "the other end was closed"
            return
        self._connection.feed(data)

    def _serve_first(self, stream: int) -> None:
        self._expected = None
        os.set_blocking(self._channel, True)
        request = FirstRequest(stream, self._channel, guest=self._ports is not None)
        try:
            data = request.serve()
        except OSError as error:
            self._broken(error)
            return
        finally:
            os.set_blocking(self._channel, False)
            request.close()
        if data is None:
            self._connection.served_apart(stream)
        else:
            self._take(data)

    def _broken(self, error: OSError) -> None:
        self._ending = f"the channel broke: {error.strerror}"

    # --- Life

    def _ping(self, _call: Call) -> bytes:
        names = os.uname()
        return pack(
            {
                "release": names.release,
                "hostname": names.nodename,
                "uptime": time.clock_gettime(time.CLOCK_BOOTTIME),
                "python": ".".join(map(str, sys.version_info[:3])),
            }
        )

    def _state(self, _call: Call) -> bytes:
        return pack(
            {
                "processes": [inventory.process(child.pid) for child in self._children.values()],
                "functions": [inventory.process(function.pid) for function in self._functions.values()],
                "calls": self._connection.waiting - 1,  # without this one
            }
        )

    def _personalize(self, call: Call) -> bytes:
        identity.personalize(unpack(call.payload)[1])
        return pack({})

    def _settle(self, _call: Call) -> bytes:
        identity.settle()
        return pack({})

    def _expect_personalize(self, call: Call) -> bytes:
        self._expected = call.stream + 2  # clients' numbers are odd
        return pack({})

    def _await_ports(self, call: Call) -> None:
        names = set(unpack(call.payload)[0]["names"])
        self._await(call, lambda ports: names <= ports.link().keys())

    def _await_vsock(self, call: Call) -> None:
        cid = unpack(call.payload)[0]["cid"]
        self._await(call, lambda _ports: identity.local_cid() == cid)

    def _await(self, call: Call, there: Callable[[Ports], bool]) -> None:
        """Answer once something is there; whatever the kernel announces is the occasion to look again."""
        if self._ports is None:
            raise RPCError(Code.FAILED_PRECONDITION, "this is no guest")
        self._awaited.append((call, there))
        self._announced()

    def _announced(self) -> None:
        assert self._ports is not None
        self._ports.drain()
        for call, there in self._awaited:
            if there(self._ports):
                call.reply(pack({}))
        self._awaited = [(call, there) for call, there in self._awaited if not call.answered]

    def _power_off(self, call: Call) -> None:
        def then() -> None:
            self._ending, self._then = "asked to power off", "power off"

        # Whatever is left of the channel's buffer goes out first.
        call.reply(pack({}))
        self._writer.write(b"", then)

    def _tidy(self, _call: Call) -> bytes:
        found = len(self._children) + len(self._functions)
        self._close_all()
        return pack({"ended": found})

    def _close_all(self) -> None:
        for child in self._children.values():
            child.close()
        for function in self._functions.values():
            function.close()
        self._children.clear()
        self._functions.clear()

    # --- Commands

    def _start(self, call: Call) -> bytes:
        document, _ = unpack(call.payload)
        size = document.get("terminal")
        child = Child(
            self._reactor,
            [str(word) for word in document["argv"]],
            {**os.environ, **document.get("environment", {})},
            document.get("directory", "/"),
            (int(size[0]), int(size[1])) if size else None,
            bool(document.get("input")),
        )
        number = next(self._numbers)
        self._children[number] = child
        return pack({"process": number, "pid": child.pid})

    def _child(self, document: dict[str, Any]) -> Child:
        try:
            return self._children[document["process"]]
        except KeyError:
            raise RPCError(Code.NOT_FOUND, f"no process {document.get('process')}") from None

    def _next(self, call: Call) -> None:
        self._child(unpack(call.payload)[0]).next(call)

    def _write(self, call: Call) -> None:
        document, data = unpack(call.payload)
        self._child(document).write(call, data)

    def _close_input(self, call: Call) -> bytes:
        self._child(unpack(call.payload)[0]).close_input()
        return pack({})

    def _resize(self, call: Call) -> bytes:
        document, _ = unpack(call.payload)
        self._child(document).resize((document["rows"], document["columns"]))
        return pack({})

    def _signal(self, call: Call) -> bytes:
        document, _ = unpack(call.payload)
        self._child(document).signal(document["signal"])
        return pack({})

    def _forget(self, call: Call) -> bytes:
        document, _ = unpack(call.payload)
        self._child(document).close()
        del self._children[document["process"]]
        return pack({})

    # --- Functions

    def _function(self, call: Call) -> bytes:
        document, _ = unpack(call.payload)
        number = next(self._numbers)
        function = Function(self._reactor, document, self._reactor.close)
        self._functions[number] = function
        return pack({"function": number, "pid": function.pid})

    def _known(self, document: dict[str, Any]) -> Function:
        try:
            return self._functions[document["function"]]
        except KeyError:
            raise RPCError(Code.NOT_FOUND, f"no function {document.get('function')}") from None

    def _step(self, call: Call) -> None:
        document, _ = unpack(call.payload)
        self._known(document).step(call, document.get("value"))

    def _kill(self, call: Call) -> bytes:
        document, _ = unpack(call.payload)
        self._known(document).close()
        del self._functions[document["function"]]
        return pack({})

    # --- Files

    def _read_file(self, call: Call) -> bytes:
        document, _ = unpack(call.payload)
        # Buffered: a file of procfs gives a page at a time, and finds its place anew after every seek.
        with _files(document), open(document["path"], "rb") as stream:
            if document["offset"]:  # what cannot seek is read from its start
                stream.seek(document["offset"])
            return pack({}, stream.read(min(document["size"], ATTACHMENT_LIMIT)))

    def _write_file(self, call: Call) -> bytes:
        document, data = unpack(call.payload)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (0 if document["offset"] else os.O_TRUNC)
        with _files(document), open(os.open(document["path"], flags, document["mode"]), "wb") as stream:
            if document["offset"]:  # what cannot seek is written from its start
                stream.seek(document["offset"])
            stream.write(data)
        return pack({})


class _files:  # noqa: N801 - reads as a verb at its uses
    """Turn failures of the file system into statuses."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._path = document["path"]

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError):
            codes = {FileNotFoundError: Code.NOT_FOUND, PermissionError: Code.PERMISSION_DENIED}
            code = codes.get(type(error), Code.FAILED_PRECONDITION)
            raise RPCError(code, f"{self._path}: {error.strerror}") from error


def main() -> None:
    """Serve the descriptor named on the command line: how the host runs work in a process of its own."""
    channel = int(sys.argv[1])
    os.set_inheritable(channel, False)  # what runs here must not keep it open
    try:
        Daemon(channel).serve()
    except FrameError as error:
        sys.exit(f"control daemon: {error}")


if __name__ == "__main__":
    main()
