# SPDX-License-Identifier: Apache-2.0
"""What an agent offers beside its API: its log, and a shell for each client of the debug console."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque

from kvtest.guest.agent.reaper import Reaper
from kvtest.guest.reactor import Reactor, Writer

LOG_PORT = 1025
CONSOLE_PORT = 1026
_KEPT = 1000
_CHUNK = 1 << 16
_MOST_UNREAD = 1 << 20
_SHELL = ["/bin/sh", "-i"]


class Log:
    """The agent's log: on the guest's console, and for the first client of its port, from the first line on.

    Args:
        reactor: Watches the port.
        listener: Where the client comes.
    """

    def __init__(self, reactor: Reactor, listener: socket.socket) -> None:
        self._reactor = reactor
        self._lines: deque[bytes] = deque(maxlen=_KEPT)
        self._client: socket.socket | None = None
        self._writer: Writer | None = None
        self._listener = listener
        listener.setblocking(False)
        reactor.watch(listener.fileno(), selectors.EVENT_READ, self._accept)

    def say(self, message: str) -> None:
        """Add a line."""
        entry = {"ts": time.time(), "source": "agent", "level": "INFO", "msg": message}
        line = json.dumps(entry).encode() + b"\n"
        self._lines.append(line)
        sys.stderr.write(f"kvtest-agent: {message}\n")
        sys.stderr.flush()
        if self._writer is not None and self._writer.buffered < _MOST_UNREAD:
            self._writer.write(line)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        if self._client is not None:  # one reader: a second would get half of the lines
            client.close()
            return
        self._client = client
        self._writer = Writer(self._reactor, client.fileno(), lambda _error: self._gone())
        self._reactor.watch(client.fileno(), selectors.EVENT_READ, self._read)
        self._writer.write(b"".join(self._lines))

    def _read(self) -> None:
        assert self._client is not None
        try:
            data = self._client.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._gone()

    def _gone(self) -> None:
        if self._client is not None:
            self._reactor.forget(self._client.fileno())
            self._client.close()
            self._client = self._writer = None


class DebugConsole:
    """A shell on a terminal for each client.

    Args:
        reactor: Watches the clients and the terminals.
        reaper: Tells of the shells' ends.
        listener: Where clients come.
    """

    def __init__(self, reactor: Reactor, reaper: Reaper, listener: socket.socket) -> None:
        self._reactor = reactor
        self._reaper = reaper
        self._listener = listener
        listener.setblocking(False)
        reactor.watch(listener.fileno(), selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            _Shell(self._reactor, self._reaper, self._listener.accept()[0])


class _Shell:
    def __init__(self, reactor: Reactor, reaper: Reaper, client: socket.socket) -> None:
        self._reactor = reactor
        self._client = client
        self._terminal, theirs = os.openpty()
        self._pid = os.posix_spawn(
            _SHELL[0],
            _SHELL,
            os.environ,
            # Opened by name by the first of a new session, it becomes the session's terminal.
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.ttyname(theirs), os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT],
        )
        os.close(theirs)
        self._alive = self._open = True
        self._to_client = Writer(reactor, client.fileno(), lambda _error: self._close())
        self._to_shell = Writer(reactor, self._terminal, lambda _error: self._close())
        reactor.watch(client.fileno(), selectors.EVENT_READ, self._from_client)
        reactor.watch(self._terminal, selectors.EVENT_READ, self._from_shell)
        reaper.watch(self._pid, self._ended)

    def _from_client(self) -> None:
        self._pass_on(self._client.fileno(), self._to_shell)

    def _from_shell(self) -> None:
        self._pass_on(self._terminal, self._to_client)

    def _pass_on(self, source: int, target: Writer) -> None:
        try:
            data = os.read(source, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or target.buffered > _MOST_UNREAD:
            self._close()
        else:
            target.write(data)

    def _ended(self, _status: int) -> None:
        self._alive = False
        if self._open:
            self._from_shell()  # its last words
            self._close()

    def _close(self) -> None:
        if not self._open:
            return
        self._open = False
        for descriptor in (self._client.fileno(), self._terminal):
            self._reactor.forget(descriptor)
        self._client.close()
        os.close(self._terminal)
        if self._alive:
            os.killpg(self._pid, signal.SIGKILL)
