# SPDX-License-Identifier: Apache-2.0
"""Everything that can be asked of a control daemon."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kvtest.control.functions import Service, Task, serve_vsock
from kvtest.control.processes import Completed, Process
from kvtest.control.requests import Requests
from kvtest.control.shipping import ship
from kvtest.deadline import Deadline
from kvtest.errors import ConnectionLostError, DeadlineExceededError, GuestError
from kvtest.guest import identity
from kvtest.guest.messages import ATTACHMENT_LIMIT
from kvtest.rpc.client import Client

Patience = Deadline | float | None


def _feed(process: Process, data: bytes, deadline: Deadline) -> None:
    # It may end, or close its input, without reading all: its status tells.
    with contextlib.suppress(GuestError, ConnectionLostError, DeadlineExceededError):
        process.write(data, deadline)
        process.close_input()


class GuestControl:
    """A control daemon, by its channel. Every call takes a deadline, or keeps the default one.

    Args:
        stream: A connected stream socket to the daemon; owned from now on.
        timeout: Seconds for a request that is given no deadline.
        name: What to call the other side in messages.
        first_stream: Number of the first request's stream: above those of a daemon that has served somebody before.
    """

    def __init__(
        self, stream: socket.socket, timeout: float = 30.0, name: str = "guest", first_stream: int = 1
    ) -> None:
        self._requests = Requests(Client(stream, name, first_stream), timeout)

    @property
    def next_stream(self) -> int:
        """The number that the next request's stream will get; where a clone's channel goes on."""
        return self._requests.client.next_stream

    @property
    def lost(self) -> str | None:
        """Why the channel ended, or ``None`` while it lasts."""
        return self._requests.client.lost

    def close(self) -> None:
        """End the channel; a guest powers off when its channel ends."""
        self._requests.client.close()

    # --- Life

    def ping(self, deadline: Patience = None) -> dict[str, Any]:
        """Return what the daemon says of its machine: ``release``, ``hostname``, ``uptime``, ``python``."""
        return self._requests.send("Ping", {}, deadline=deadline)[0]

    def state(self, deadline: Patience = None) -> dict[str, Any]:
        """Return what the daemon is busy with: its ``processes`` and ``functions``, and how many ``calls`` wait."""
        return self._requests.send("State", {}, deadline=deadline)[0]

    def personalize(self, hostname: str, deadline: Patience = None) -> None:
        """Make a restored guest differ from its siblings: random numbers, time, machine ID, name."""
        record = identity.record(hostname, secrets.token_hex(16), secrets.token_bytes(64), time.time_ns())
        deadline = self._requests.deadline(deadline)
        # The request tells no deadline, which would make it another each time: its answer is prepared.
        self._requests.receive(self._requests.begin("Personalize", {}, record, Deadline(None)), deadline)

    def expect_personalize(self, deadline: Patience = None) -> None:
        """Have the daemon wait for :meth:`personalize`, which it then answers as soon as can be; for what else, too."""
        self._requests.send("ExpectPersonalize", {}, deadline=deadline)

    def zero_free_memory(self, deadline: Patience = None) -> int:
        """Overwrite the guest's free memory with zeros; return how many bytes that were."""
        return int(self._requests.send("ZeroFreeMemory", {}, deadline=deadline)[0]["bytes"])

    def settle(self, deadline: Patience = None) -> None:
        """Have the guest idle until its kernel has nothing left to do."""
        self._requests.send("Settle", {}, deadline=deadline)

    def await_vsock(self, cid: int, deadline: Patience = None) -> None:
        """Wait until the guest's vsock device has been set up with an address."""
        self._requests.send("AwaitVsock", {"cid": cid}, deadline=deadline)

    def await_ports(self, names: Sequence[str], deadline: Patience = None) -> None:
        """Wait until virtio-serial ports have appeared in the guest."""
        self._requests.send("AwaitPorts", {"names": list(names)}, deadline=deadline)

    def power_off(self, deadline: Patience = None) -> None:
        """Ask the guest to power off; it does so after its answer."""
        self._requests.send("PowerOff", {}, deadline=deadline)

    def tidy(self, deadline: Patience = None) -> int:
        """End all commands and functions that were started over this channel; return how many there were."""
        return int(self._requests.send("Tidy", {}, deadline=deadline)[0]["ended"])

    # --- Commands

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes | None = None,  # noqa: A002 - the name that subprocess.run() gave it
        environment: Mapping[str, str] | None = None,
        deadline: Patience = None,
    ) -> Completed:
        """Run a command to its end.

        Args:
            argv: Program, found on ``PATH``, and arguments.
            input: What it can read from its standard input.
            environment: Variables to add.
            deadline: When to give up; the command is killed then.

        Raises:
            GuestError: It could not be started.
            DeadlineExceededError: It did not end in time.
        """
        limit = Deadline.of(self._requests.timeout if deadline is None else deadline)
        with self.start_process(argv, environment=environment, with_input=input is not None) as process:
            if input is None:
                return process.wait(limit)
            with ThreadPoolExecutor(1, "kvtest-input") as feeder:  # it may write before it has read all
                feeder.submit(_feed, process, input, limit)
                return process.wait(limit)

    def start_process(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        terminal: tuple[int, int] | None = None,
        with_input: bool = False,
    ) -> Process:
        """Start a command.

        Args:
            argv: Program, found on ``PATH``, and arguments.
            environment: Variables to add.
            terminal: Rows and columns of a terminal for it; pipes if ``None``.
            with_input: Whether its standard input is open; otherwise it is empty.

        Raises:
            GuestError: It could not be started.
        """
        document, _ = self._requests.send(
            "Start",
            {
                "argv": list(argv),
                "environment": dict(environment or {}),
                "terminal": terminal,
                "input": with_input,
            },
        )
        return Process(self._requests, document["process"], tuple(argv))

    # --- Functions

    def call(self, function: Callable[..., Any], *arguments: Any, deadline: Patience = None) -> Any:
        """Run a Python function and return its result.

        Args:
            function: A plain function; it is sent as source, with what it needs from its module.
            *arguments: JSON values and bytes.
            deadline: When to give up; it is killed then.

        Raises:
            RemoteFunctionError: It raised; the guest's traceback is in the message.
        """
        with Task(self._requests, function, arguments, deadline) as task:
            if not task.finished:
                raise GuestError(f"{task.name} yields: run it with start()")
            return task.ready

    def start(self, function: Callable[..., Any], *arguments: Any, deadline: Patience = None) -> Task:
        """Run a generator function up to its first ``yield``; :attr:`Task.ready` is what it yielded."""
        return Task(self._requests, function, arguments, deadline)

    def serve(
        self,
        handler: Callable[[socket.socket], Any],
        *,
        port: int = socket.VMADDR_PORT_ANY,
        backlog: int = 128,
    ) -> Service:
        """Listen on a vsock port and run ``handler`` for each connection; returns once it listens.

        Args:
            handler: Takes the connection, which is closed when it returns. Runs in the guest.
            port: The port; any free one if not given.
            backlog: Length of the listen queue.
        """
        return Service(self.start(serve_vsock, ship(handler), port, backlog))

    # --- Files

    def read_file(self, path: str, deadline: Patience = None, *, offset: int = 0) -> bytes:
        """Return a file's contents.

        Args:
            path: The file.
            deadline: When to give up.
            offset: Where to begin, in bytes.

        Raises:
            GuestError: It cannot be read.
        """
        limit = Deadline.of(self._requests.timeout if deadline is None else deadline)
        content = bytearray()
        while True:
            request = {"path": path, "offset": offset + len(content), "size": ATTACHMENT_LIMIT}
            _, data = self._requests.send("ReadFile", request, deadline=limit)
            if not data:
                return bytes(content)
            content += data

    def write_file(self, path: str, data: bytes, mode: int = 0o644, deadline: Patience = None) -> None:
        """Write a file, in place of one that is there.

        Raises:
            GuestError: It cannot be written.
        """
        limit = Deadline.of(self._requests.timeout if deadline is None else deadline)
        for offset in range(0, max(1, len(data)), ATTACHMENT_LIMIT):
            part = data[offset : offset + ATTACHMENT_LIMIT]
            request = {"path": path, "offset": offset, "mode": mode}
            self._requests.send("WriteFile", request, part, limit)

    # --- Inventory

    def sockets(self, deadline: Patience = None) -> dict[str, list[dict[str, Any]]]:
        """Return the sockets by family, ``vsock`` and ``unix``."""
        return self._requests.send("Sockets", {}, deadline=deadline)[0]

    def modules(self, deadline: Patience = None) -> list[str]:
        """Return the names of loaded kernel modules."""
        return list(self._requests.send("Modules", {}, deadline=deadline)[0]["modules"])

    def kernel_log(self, deadline: Patience = None) -> list[str]:
        """Return the kernel's log, a line per record."""
        return list(self._requests.send("KernelLog", {}, deadline=deadline)[0]["lines"])
