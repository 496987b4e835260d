# SPDX-License-Identifier: Apache-2.0
"""The standard streams of a container's process: fifos, as containerd's clients make them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
from pathlib import Path

from kvtest.deadline import Deadline

_CHUNK = 1 << 16
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PACE = 0.05  # seconds between two pieces of output that is thrown away


class Output:
    """What a process writes.

    Args:
        path: Where to make the fifo.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        self._descriptor = -1
        self._read = bytearray()
        self._ended = False
        self._closed = threading.Event()
        self._drain: threading.Thread | None = None
        self.attach()  # before there is a writer: whoever opens it to write would wait for us

    def attach(self) -> None:
        """Be its reader again, after :meth:`detach`; what came before then stays in :attr:`seen`."""
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)

    def detach(self) -> None:
        """Be its reader no more, as a client that goes away; the fifo stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def narrow(self) -> None:
        """Have the fifo hold one page, the least that it can (F_SETPIPE_SZ of fcntl(2)), before anything is written."""
        fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, _PAGE)

    def await_full(self, within: Deadline | float) -> None:
        """Wait until no more can be written to a fifo that is narrow, and read nothing.

        Its one page is taken by whatever is written first; a second page, which poll(2) waits for, there is not.

        Raises:
            DeadlineExceededError: Nothing is written.
        """
        deadline = Deadline.of(within)
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        if not poll.poll(deadline.remaining_ms):
            raise deadline.exceeded("output that fills the fifo")

    @property
    def seen(self) -> bytes:
        """What has been read so far."""
        return bytes(self._read)

    def read_all(self, within: Deadline | float) -> bytes:
        """Read until the last writer has closed it, and return everything that was ever written.

        Raises:
            DeadlineExceededError: Somebody still holds it open.
        """
        deadline = Deadline.of(within)
        while not self._ended:
            self._more(deadline, "the end of the output")
        return bytes(self._read)

    def read_until(self, text: bytes, within: Deadline | float) -> bytes:
        """Read until ``text`` was written, and return everything up to it.

        Raises:
            DeadlineExceededError: It was not.
            EOFError: The output ended before.
        """
        deadline = Deadline.of(within)
        while (place := self._read.find(text)) < 0:
            if self._ended:
                raise EOFError(f"the output ended without {text!r}; it was {bytes(self._read[-200:])!r}")
            self._more(deadline, f"{text!r} in the output")
        return bytes(self._read[: place + len(text)])

    def drain(self) -> None:
        """Have whatever is written from now on read and thrown away, until it ends or is closed.

        A piece at a time: output without an end has a reader then, and does not take all of a processor.
        """
        if self._drain is None:
            descriptor = os.dup(self._descriptor)
            name = f"kvtest-drain {self.path.name}"
            self._drain = threading.Thread(target=self._throw_away, args=(descriptor,), name=name, daemon=True)
            self._drain.start()

    def _throw_away(self, descriptor: int) -> None:
        with open(descriptor, "rb", buffering=0) as stream:
            while not self._closed.wait(_PACE):
                if stream.read(_CHUNK) == b"":  # and None where nothing is there yet
                    return

    def _more(self, deadline: Deadline, awaited: str) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        if not poll.poll(deadline.remaining_ms):
            raise deadline.exceeded(awaited, f"{len(self._read)} bytes, {bytes(self._read[-100:])!r} last")
        data = os.read(self._descriptor, _CHUNK)
        self._read += data
        self._ended = not data

    def close(self) -> None:
        """Read no more, and remove the fifo."""
        self._closed.set()
        if self._drain is not None:
            self._drain.join()
            self._drain = None
        self.detach()
        self.path.unlink(missing_ok=True)


class Input:
    """What a process reads.

    Args:
        path: Where to make the fifo.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        self._descriptor = -1
        self._opener: threading.Thread | None = None

    def open(self) -> None:
        """Take the writing end as soon as the shim has the other, which may be after its answer."""
        self._opener = threading.Thread(target=self._open, name=f"kvtest-input {self.path.name}", daemon=True)
        self._opener.start()

    def _open(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY)  # returns when there is a reader
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor

    def _opened(self, deadline: Deadline) -> None:
        if self._opener is not None:
            self._opener.join(deadline.remaining)
        if self._descriptor < 0:
            raise deadline.exceeded("somebody to read the input")

    def write(self, data: bytes, within: Deadline | float) -> None:
        """Write all of ``data``.

        Raises:
            DeadlineExceededError: Nobody reads.
            BrokenPipeError: Nobody can read any more.
        """
        deadline = Deadline.of(within)
        self._opened(deadline)
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        rest = memoryview(data)
        while rest:
            if not poll.poll(deadline.remaining_ms):
                raise deadline.exceeded("the input to be read", f"{len(rest)} of {len(data)} bytes are left")
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self._descriptor, rest) :]

    def close(self) -> None:
        """Write no more, and remove the fifo."""
        if self._opener is not None:
            reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)  # for whoever still waits for one
            self._opener.join()
            self._opener = None
            os.close(reader)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self.path.unlink(missing_ok=True)
