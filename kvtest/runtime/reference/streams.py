# SPDX-License-Identifier: Apache-2.0
"""The standard streams of a process: between the fifos of containerd's client and the agent in the guest."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kvtest.deadline import Deadline
from kvtest.errors import KvtestError
from kvtest.runtime.agent import Agent

_CHUNK = 1 << 16
_NEVER = Deadline(None)


def _path(place: str) -> str:
    """Return where a stream goes: the path that was given, or that of a URI such as ``file:///var/log/one``."""
    found = urlsplit(place)
    return unquote(found.path) if found.scheme else place


class Output:
    """Carries what a process writes to a fifo, or to the end of a file, from :meth:`begin` until the stream has ended.

    The fifo's other end is held open too, as runc's shim does: what nobody reads waits in it until somebody comes, and
    a reader that goes away breaks nothing.

    Args:
        method: ``ReadStdout`` or ``ReadStderr``.
        place: The fifo, or a ``file://`` URI, whose file is made where it is missing; what is read is thrown away if
            there is neither.
        **names: What tells the process.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, method: str, place: str, **names: str) -> None:
        self._method = method
        self._names = names
        path = _path(place) or os.devnull
        if place.startswith("file:"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch(0o644)
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._target = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except BaseException:
            os.close(self._reader)
            raise
        self._closing = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, agent: Agent) -> None:
        """Begin to carry: the process exists in the guest of an agent."""
        self._thread = threading.Thread(target=self._run, args=(agent,), name=self._method, daemon=True)
        self._thread.start()

    def join(self, deadline: Deadline) -> None:
        """Wait until everything has been written, as far as there is room for it or somebody reads it."""
        if self._thread is not None:
            self._thread.join(deadline.remaining)

    def close(self) -> None:
        """Let go of what nobody has read; whoever reads at present still gets the rest."""
        with self._closing:  # called by whoever ends its process or its container, which may be two
            if self._reader >= 0:
                os.close(self._reader)
                self._reader = -1
                if self._thread is None:
                    os.close(self._target)

    def _run(self, agent: Agent) -> None:
        try:
            with contextlib.suppress(KvtestError, BrokenPipeError):  # the end of the stream, or closed and nobody reads
                while True:
                    answer = agent.call(self._method, _NEVER, len=_CHUNK, **self._names)
                    rest = memoryview(answer.data)
                    while rest:
                        rest = rest[os.write(self._target, rest) :]
        finally:
            os.close(self._target)


class Input:
    """Carries a fifo to what a process reads, from :meth:`begin` until it is told that nothing more comes.

    Args:
        place: The fifo.
        **names: What tells the process.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, place: str, **names: str) -> None:
        self._names = names
        path = _path(place)
        with contextlib.ExitStack() as opened:
            self._source = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            opened.callback(os.close, self._source)
            # With a writer of our own the end of one client's writing is not the end of all.
            self._writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            opened.callback(os.close, self._writer)
            self._ending = os.eventfd(0, os.EFD_CLOEXEC)
            opened.pop_all()
        self._begun = False
        self._open = True
        self._closing = threading.Lock()

    def begin(self, agent: Agent) -> None:
        """Begin to carry: the process exists in the guest of an agent."""
        self._begun = True
        threading.Thread(target=self._run, args=(agent,), name="stdin", daemon=True).start()

    def close(self) -> None:
        """Let go of the fifo, after what is in it if it is carried already."""
        if self._begun:
            self.end()
        else:
            self._close()

    def end(self) -> None:
        """Let the process read what there is, and then the end."""
        with self._closing:
            if self._open:  # else the descriptor may be another's by now
                os.eventfd_write(self._ending, 1)

    def _run(self, agent: Agent) -> None:
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        poll.register(self._ending, select.POLLIN)
        try:
            with contextlib.suppress(KvtestError):
                while True:
                    ready = {descriptor for descriptor, _ in poll.poll()}
                    data = self._read()
                    if data:
                        self._write(agent, data)
                    elif self._ending in ready:
                        break
                agent.call("CloseStdin", None, **self._names)
        finally:
            self._close()

    def _close(self) -> None:
        with self._closing:
            if self._open:
                self._open = False
                for descriptor in (self._source, self._writer, self._ending):
                    os.close(descriptor)

    def _read(self) -> bytes:
        try:
            return os.read(self._source, _CHUNK)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            return b""

    def _write(self, agent: Agent, data: bytes) -> None:
        while data:
            taken = agent.call("WriteStdin", _NEVER, data=data, **self._names).len
            data = data[taken:]
