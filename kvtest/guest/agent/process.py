# SPDX-License-Identifier: Apache-2.0
"""One process of a container: its streams, its end, and the calls that wait for either."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable

from kvtest.errors import RPCError
from kvtest.guest.agent.crun import Stdio
from kvtest.guest.agent.streams import Input, Output
from kvtest.guest.reactor import Reactor
from kvtest.rpc.server import Call
from kvtest.rpc.status import Code

#: Added to the number of a signal that ended a process, as agents do since 3.32; the bare number before.
SIGNALLED = 128


class Process:
    """A process, from before crun starts it.

    Args:
        reactor: Watches its streams.
        replies: How calls are answered: with output, with a number of bytes taken, with an exit status.
        console: Path of a socket to make, over which crun hands over a terminal; ``None`` for pipes.
    """

    def __init__(self, reactor: Reactor, replies: Replies, console: str | None) -> None:
        self._reactor = reactor
        self._replies = replies
        self._theirs: list[int] = []
        self._waiters: list[Call] = []
        self.console = console
        self._listener: socket.socket | None = None
        self._terminal: int | None = None
        self.pid: int | None = None
        self.status: int | None = None
        #: Called when somebody has got its exit status.
        self.told: Callable[[], None] = lambda: None
        self.stdin: Input | None = None
        self.outputs: dict[str, Output] = {}
        if console is not None:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(console)
            self._listener.bind(console)
            self._listener.listen(1)
            self._listener.setblocking(False)
            return
        their_input, our_input = os.pipe()
        our_output, their_output = os.pipe()
        our_error, their_error = os.pipe()
        self._theirs = [their_input, their_output, their_error]
        self.stdin = Input(reactor, our_input, replies.taken)
        self.outputs = {
            "stdout": Output(reactor, our_output, replies.output),
            "stderr": Output(reactor, our_error, replies.output),
        }

    @property
    def stdio(self) -> Stdio | None:
        """The streams that crun hands on; ``None`` where it makes a terminal."""
        return (self._theirs[0], self._theirs[1], self._theirs[2]) if self._theirs else None

    def started(self, pid: int, size: tuple[int, int] | None = None) -> None:
        """Take the process that crun has made.

        Args:
            pid: Its number.
            size: Rows and columns of its terminal.
        """
        self.pid = pid
        self._give_theirs_up()
        if self._listener is not None:
            connection, _ = self._listener.accept()  # crun sent it before it ended
            with connection:
                _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
            self._terminal = descriptors[0]
            os.set_inheritable(self._terminal, False)
            self._stop_listening()
            self.stdin = Input(self._reactor, os.dup(self._terminal), self._replies.taken)
            self.outputs = {"stdout": Output(self._reactor, os.dup(self._terminal), self._replies.output)}
            if size is not None and any(size):
                self.resize(*size)

    def wait(self, call: Call) -> None:
        """Answer a call with the exit status, as soon as there is one."""
        if self.status is not None:
            self._replies.status(call, self.status)
            self.told()
        else:
            self._waiters.append(call)

    def ended(self, status: int) -> None:
        """Take its wait status."""
        code = os.waitstatus_to_exitcode(status)
        self.status = code if code >= 0 else SIGNALLED - code
        if self.stdin is not None:
            self.stdin.abandon()
        for output in self.outputs.values():
            output.process_ended()
        waiters, self._waiters = [call for call in self._waiters if not call.answered], []
        for call in waiters:
            self._replies.status(call, self.status)
        if waiters:
            self.told()

    def output(self, stream: str) -> Output:
        """Return one of its output streams.

        Raises:
            RPCError: It has no such stream: a terminal is one stream only.
        """
        if stream not in self.outputs:
            raise RPCError(Code.FAILED_PRECONDITION, f"it has no {stream}")
        return self.outputs[stream]

    def input(self) -> Input:
        """Return its input.

        Raises:
            RPCError: It has not been started.
        """
        if self.stdin is None:
            raise RPCError(Code.FAILED_PRECONDITION, "it has no standard input")
        return self.stdin

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of its terminal.

        Raises:
            RPCError: It has none.
        """
        if self._terminal is None:
            raise RPCError(Code.FAILED_PRECONDITION, "it has no terminal")
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close_input(self) -> None:
        """End its input: a terminal is told so by the character that means it."""
        if self._terminal is not None and self.status is None:
            os.write(self._terminal, b"\x04")
        else:
            self.input().close()

    def signal(self, number: int) -> None:
        """Send it a signal; harmless after its end."""
        if self.pid is not None and self.status is None:
            os.kill(self.pid, number)

    def adjust_oom_score(self, value: int) -> None:
        """Have the kernel kill it sooner or later than others for want of memory (proc_pid_oom_score_adj(5))."""
        path = f"/proc/{self.pid}/oom_score_adj"
        with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as stream:  # it may have ended
            stream.write(str(value))

    def prune(self) -> None:
        """Forget calls that nobody waits for any more."""
        self._waiters = [call for call in self._waiters if not call.answered]
        for stream in (self.stdin, *self.outputs.values()):
            if stream is not None:
                stream.prune()

    def close(self) -> None:
        """Give its descriptors back; whoever still waits is told that it is gone."""
        self._give_theirs_up()
        self._stop_listening()
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None
        if self.stdin is not None:
            self.stdin.abandon()
        for output in self.outputs.values():
            output.close()
        waiters, self._waiters = self._waiters, []
        for call in waiters:
            call.fail(Code.NOT_FOUND, "the process is gone")

    def _give_theirs_up(self) -> None:
        for descriptor in self._theirs:
            os.close(descriptor)
        self._theirs = []

    def _stop_listening(self) -> None:
        if self._listener is not None and self.console is not None:
            self._listener.close()
            self._listener = None
            os.unlink(self.console)


class Replies:
    """How the calls of a process are answered.

    Args:
        output: With bytes of a stream.
        taken: With the number of bytes that it took.
        status: With its exit status.
    """

    def __init__(
        self,
        output: Callable[[Call, bytes], None],
        taken: Callable[[Call, int], None],
        status: Callable[[Call, int], None],
    ) -> None:
        self.output = output
        self.taken = taken
        self.status = status
