# SPDX-License-Identifier: Apache-2.0
"""Commands that the daemon runs: their streams, their end."""

from __future__ import annotations

import errno
import fcntl
import os
import selectors
import signal
import struct
import termios
from collections.abc import Callable
from typing import Any

from kvtest.errors import RPCError
from kvtest.guest.libc import die_with_parent
from kvtest.guest.messages import ATTACHMENT_LIMIT, pack
from kvtest.guest.reactor import Reactor, Writer
from kvtest.rpc.server import Call
from kvtest.rpc.status import Code

_CHUNK = 1 << 16


class Child:
    """A command.

    Args:
        reactor: Watches its streams and its end.
        argv: Program, found on ``PATH``, and arguments.
        environment: Its environment.
        directory: Where it starts.
        terminal: Rows and columns of a terminal for it; ``None`` for pipes.
        with_input: Whether its standard input stays open; otherwise it is empty.

    Raises:
        RPCError: NOT_FOUND if there is no such program, INVALID_ARGUMENT if it cannot be run.
    """

    def __init__(
        self,
        reactor: Reactor,
        argv: list[str],
        environment: dict[str, str],
        directory: str,
        terminal: tuple[int, int] | None,
        with_input: bool,
    ) -> None:
        self._reactor = reactor
        self._output: list[tuple[str, bytes]] = []
        self._buffered = 0
        self._sources: dict[str, int] = {}  # open descriptors that output comes from
        self._input: Writer | None = None
        self._input_descriptor: int | None = None
        self._writes: list[Call] = []  # whose bytes it has not taken yet
        self._status: int | None = None
        self._waiting: Call | None = None
        self._terminal = terminal is not None
        if terminal is not None:
            self._start_on_terminal(argv, environment, directory, terminal)
        else:
            self._start_on_pipes(argv, environment, directory, with_input)
        self._pidfd = os.pidfd_open(self.pid)
        reactor.watch(self._pidfd, selectors.EVENT_READ, self._ended)
        for stream in self._sources:
            self._listen(stream)

    # --- Start

    def _start_on_pipes(self, argv: list[str], environment: dict[str, str], directory: str, with_input: bool) -> None:
        standard_input, our_input = os.pipe() if with_input else (os.open(os.devnull, os.O_RDONLY), None)
        our_output, standard_output = os.pipe()
        our_error, standard_error = os.pipe()

        def prepare() -> None:
            os.setsid()
            for number, descriptor in enumerate((standard_input, standard_output, standard_error)):
                os.dup2(descriptor, number)

        try:
            self.pid = _spawn(argv, environment, directory, prepare)
        except BaseException:
            for descriptor in (our_input, our_output, our_error):
                if descriptor is not None:
                    os.close(descriptor)
            raise
        finally:
            for descriptor in (standard_input, standard_output, standard_error):
                os.close(descriptor)
        self._sources = {"stdout": our_output, "stderr": our_error}
        if our_input is not None:
            self._take_input(our_input)

    def _start_on_terminal(
        self, argv: list[str], environment: dict[str, str], directory: str, size: tuple[int, int]
    ) -> None:
        ours, theirs = os.openpty()
        _resize(ours, size)
        try:
            self.pid = _spawn(argv, environment, directory, lambda: os.login_tty(theirs))
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self._sources = {"stdout": ours}
        self._take_input(os.dup(ours))

    def _take_input(self, descriptor: int) -> None:
        self._input_descriptor = descriptor
        # The command may end, or close its input, with bytes on the way: its end is told by Next.
        self._input = Writer(self._reactor, descriptor, lambda _error: self.close_input())

    # --- Output

    def _listen(self, stream: str) -> None:
        descriptor = self._sources[stream]
        os.set_blocking(descriptor, False)
        self._reactor.watch(descriptor, selectors.EVENT_READ, lambda: self._read(stream))

    def _read(self, stream: str) -> None:
        self._take(stream)
        if self._buffered >= ATTACHMENT_LIMIT:  # nobody fetches it: let the command wait
            for descriptor in self._sources.values():
                self._reactor.watch(descriptor, selectors.EVENT_READ, None)
        self._tell()

    def _take(self, stream: str) -> bool:
        """Read once; return whether there may be more at once."""
        descriptor = self._sources[stream]
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # how a terminal ends
                raise
            data = b""
        if data:
            self._output.append((stream, data))
            self._buffered += len(data)
            return True
        self._reactor.forget(descriptor)
        os.close(self._sources.pop(stream))
        return False

    def next(self, call: Call) -> None:
        """Answer a call with the output since the last one, or with the end, as soon as there is either."""
        if self._waiting is not None and not self._waiting.answered:
            raise RPCError(Code.FAILED_PRECONDITION, "somebody else waits for this command")
        self._waiting = call
        self._tell()

    def _tell(self) -> None:
        call = self._waiting
        if call is None or call.answered or not (self._output or self._status is not None):
            return
        if self._status is not None:
            # What it wrote before its end comes first. What its children still write later does not keep us.
            for stream in list(self._sources):
                while self._buffered < ATTACHMENT_LIMIT and stream in self._sources and self._take(stream):
                    pass
        full = self._buffered >= ATTACHMENT_LIMIT
        output, self._output, self._buffered = self._output, [], 0
        self._waiting = None
        document: dict[str, Any] = {"output": [[stream, len(data)] for stream, data in output]}
        if self._status is not None and not full:
            code = os.waitstatus_to_exitcode(self._status)
            document["signal" if code < 0 else "code"] = abs(code)
        elif full:
            for stream in self._sources:
                self._listen(stream)
        call.reply(pack(document, b"".join(data for _, data in output)))

    # --- Input and signals

    def write(self, call: Call, data: bytes) -> None:
        """Write to its input and answer when it has taken it all."""
        if self._input is None:
            raise RPCError(Code.FAILED_PRECONDITION, "its input is closed")
        self._writes.append(call)
        self._input.write(data, lambda: self._written(call))

    def _written(self, call: Call) -> None:
        self._writes.remove(call)
        call.reply(pack({}))

    def close_input(self) -> None:
        """Close its input, or tell its terminal that nothing more is typed."""
        if self._input_descriptor is None:
            return
        self._reactor.forget(self._input_descriptor)
        os.close(self._input_descriptor)
        self._input = self._input_descriptor = None
        for call in self._writes:
            call.fail(Code.FAILED_PRECONDITION, "its input is closed")
        self._writes.clear()

    def resize(self, size: tuple[int, int]) -> None:
        """Change the size of its terminal."""
        if not self._terminal or self._input_descriptor is None:
            raise RPCError(Code.FAILED_PRECONDITION, "it has no terminal")
        _resize(self._input_descriptor, size)

    def signal(self, number: int) -> None:
        """Send a signal to it and all of its session's first process group; harmless after its end."""
        if self._status is None:
            os.killpg(self.pid, number)

    def _ended(self) -> None:
        self._reactor.forget(self._pidfd)
        os.close(self._pidfd)
        _, self._status = os.waitpid(self.pid, 0)
        self._tell()

    def close(self) -> None:
        """Kill it if it runs, and give its descriptors back."""
        if self._status is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._reactor.forget(self._pidfd)
            os.close(self._pidfd)
            _, self._status = os.waitpid(self.pid, 0)
        if self._waiting is not None:
            self._waiting.fail(Code.CANCELLED, "the command was forgotten")
        self.close_input()
        for descriptor in self._sources.values():
            self._reactor.forget(descriptor)
            os.close(descriptor)
        self._sources.clear()


def _resize(terminal: int, size: tuple[int, int]) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))


def _spawn(argv: list[str], environment: dict[str, str], directory: str, prepare: Callable[[], object]) -> int:
    """Start a program; the child tells through a pipe why it could not."""
    told, tell = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent(parent)
            prepare()
            os.chdir(directory)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execvpe(argv[0], argv, environment)
        except OSError as error:
            os.write(tell, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(tell)
    with os.fdopen(told, "rb") as stream:
        failure = stream.read()
    if failure:
        os.waitpid(pid, 0)
        number = int(failure)
        code = Code.NOT_FOUND if number == errno.ENOENT else Code.INVALID_ARGUMENT
        raise RPCError(code, f"could not run {argv[0]!r}: {os.strerror(number)}")
    return pid
