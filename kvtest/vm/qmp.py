# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor for synchronous callers.

``qemu.qmp`` is asyncio, suites are not: one event loop on one thread serves every monitor of the process.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import socket
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import qemu.qmp

from kvtest.deadline import Deadline
from kvtest.errors import QMPError

T = TypeVar("T")


class _Loop:
    """The event loop thread, started on first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> asyncio.AbstractEventLoop:
        """Return the loop, running."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(target=self._serve, args=(self._loop,), name="kvtest-qmp", daemon=True)
                thread.start()
                atexit.register(self._end, self._loop, thread)
            return self._loop

    def run(self, work: Coroutine[Any, Any, T], deadline: Deadline, awaited: str) -> T:
        """Run ``work`` on the loop and return its result."""
        future = asyncio.run_coroutine_threadsafe(work, self.start())
        try:
            return future.result(deadline.remaining)
        except TimeoutError:
            future.cancel()
            raise deadline.exceeded(awaited) from None

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks))
        loop.close()

    @staticmethod
    def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        # A monitor that nobody closed must not make the interpreter complain about tasks when it ends.
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


_loop = _Loop()


def start_monitors() -> None:
    """Start what all monitors share and what lasts as long as this process, unless it has been started."""
    _loop.start()


class Monitor:
    """The monitor of one QEMU.

    Args:
        connection: The socket that QEMU connected to us.
        log: A file that gets every command, reply and event as a JSON line with a time stamp.
        name: What to call the machine in messages.
    """

    def __init__(self, connection: socket.socket, log: Path, name: str) -> None:
        self._connection = connection
        self._client = qemu.qmp.QMPClient(name)
        self._log = log.open("a", encoding="utf-8")
        self._log_lock = threading.Lock()
        self._events: list[dict[str, Any]] = []
        self._arrived = threading.Condition()
        self._listener = qemu.qmp.EventListener()
        self._tasks: list[asyncio.Task[None]] = []
        self._disconnecting = asyncio.Lock()
        self.name = name

    def open(self, deadline: Deadline) -> None:
        """Take the greeting and negotiate.

        Raises:
            QMPError: QEMU ended or did not speak QMP.
            DeadlineExceededError: It stayed silent.
        """
        _loop.run(self._open(), deadline, f"the monitor of {self.name} to greet")

    async def _open(self) -> None:
        self._client.register_listener(self._listener)
        try:
            await self._client.connect(self._connection)
        except qemu.qmp.QMPError as error:
            raise QMPError(f"the monitor of {self.name} did not greet: {error}") from error
        self._tasks = [asyncio.create_task(self._collect()), asyncio.create_task(self._notice_end())]

    async def _collect(self) -> None:
        async for event in self._listener:
            with self._arrived:
                self._events.append(dict(event))
                self._arrived.notify_all()
            self._record("event", dict(event))

    async def _notice_end(self) -> None:
        while self._client.runstate is qemu.qmp.Runstate.RUNNING:
            await self._client.runstate_changed()
        await self._disconnect()

    async def _disconnect(self) -> None:
        # disconnect() re-raises how the connection ended; that QEMU is gone is no news to whoever closes.
        # One at a time: of two that wait for the same end, one would leave its exception unseen.
        async with self._disconnecting:
            with contextlib.suppress(qemu.qmp.QMPError, OSError, EOFError):
                await self._client.disconnect()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events so far, oldest first."""
        with self._arrived:
            return list(self._events)

    def wait_event(
        self, name: str, *, since: int = 0, deadline: Deadline | float = 10.0, **data: object
    ) -> dict[str, Any]:
        """Return the first event of a name, and with certain data, that came or comes.

        Args:
            name: Its name, such as ``VSERPORT_CHANGE``.
            since: How many of :attr:`events` to pass over.
            deadline: When to give up.
            **data: What its data has to hold.

        Raises:
            DeadlineExceededError: None came.
        """
        deadline = Deadline.of(deadline)
        with self._arrived:
            while True:
                for event in self._events[since:]:
                    if event["event"] == name and data.items() <= event.get("data", {}).items():
                        return event
                if not self._arrived.wait(deadline.remaining):
                    raise deadline.exceeded(f"QEMU's event {name} {data}")

    def execute(
        self, command: str, arguments: dict[str, object] | None = None, deadline: Deadline | float = 10.0
    ) -> Any:
        """Run a command and return what it returns.

        Raises:
            QMPError: QEMU refused it, or the connection ended.
            DeadlineExceededError: No reply came.
        """
        self._record("command", {"execute": command, "arguments": arguments or {}})
        return _loop.run(self._execute(command, arguments), Deadline.of(deadline), f"QEMU's reply to {command}")

    async def _execute(self, command: str, arguments: dict[str, object] | None) -> Any:
        try:
            reply = await self._client.execute(command, arguments)
        except qemu.qmp.ExecuteError as error:
            raise QMPError(f"QEMU refused {command}: {error}") from error
        except qemu.qmp.QMPError as error:
            raise QMPError(f"the monitor of {self.name} ended during {command}: {error}") from error
        self._record("reply", reply)
        return reply

    def close(self) -> None:
        """End the connection; harmless if QEMU has gone."""
        if self._log.closed:
            return
        _loop.run(self._close(), Deadline(5.0), f"the monitor of {self.name} to close")
        self._connection.close()
        self._log.close()

    async def _close(self) -> None:
        await self._disconnect()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _record(self, kind: str, value: object) -> None:
        with self._log_lock:
            if not self._log.closed:
                self._log.write(json.dumps({"time": time.time(), "kind": kind, "value": value}) + "\n")
                self._log.flush()
