# SPDX-License-Identifier: Apache-2.0
"""Processes that die with their owner, and all that they start with them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from attrs import frozen

from kvtest.deadline import Deadline
from kvtest.errors import HostError, MissingToolError
from kvtest.ownership.owner import Started, current_keeper

_REAPING_SECONDS = 10.0


class _Child:
    """A child of the keeper, and where its output goes is somebody else's business."""

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str] | None,
        standard: Sequence[int],
        pass_fds: Sequence[int],
        directory: Path | None = None,
        mounts: MountNamespace | None = None,
    ) -> None:
        environment = os.environ if environment is None else environment
        namespace = None if mounts is None else mounts.descriptor
        try:
            started = current_keeper().start(words, environment, standard, pass_fds, directory, namespace)
        except FileNotFoundError as error:
            if os.path.exists(words[0]):
                message = f"{words[0]} is there, and what it says is to run it, its interpreter or loader, is not"
                raise MissingToolError(message, hint=f"see its first line, or what `file {words[0]}` says") from error
            raise MissingToolError(f"{words[0]} was not found", hint="install it, or put it on PATH") from error
        except OSError as error:
            raise HostError(f"could not start {words[0]}: {error.strerror}") from error
        self._take(started)

    def _take(self, started: Started) -> None:
        self.pid = started.pid
        self.pidfd = started.pidfd
        self._status = started.status

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.status is None

    @property
    def status(self) -> int | None:
        """Its exit status, the negated signal that ended it, or ``None`` while it runs."""
        if self._status.done():
            return self._status.result()
        if not self._ended(0):
            return None
        return self._status.result(_REAPING_SECONDS)  # it has ended; the keeper is about to say how

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        status = self.status
        return "still running" if status is None else in_words(status)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal; harmless once it has ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):  # ended and reaped since
                signal.pidfd_send_signal(self.pidfd, number)

    def wait(self, deadline: Deadline | float) -> int:
        """Wait for its end and return :attr:`status`.

        Raises:
            DeadlineExceededError: It is still running.
        """
        deadline = Deadline.of(deadline)
        if self.running and not self._ended(deadline.remaining_ms):
            raise deadline.exceeded(f"process {self.pid} to end", self.tail())
        return self._status.result(_REAPING_SECONDS)

    def _ended(self, milliseconds: int | None) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(milliseconds))

    def tail(self, lines: int = 10) -> str:
        """Return the last lines of its output, as far as it is known."""
        return ""

    def close(self) -> None:
        """Kill it and its process group, reap it, and give its descriptor back."""
        if self.pidfd < 0:
            return
        if self.running:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # one that leads no group has none
                os.killpg(self.pid, signal.SIGKILL)
        self.kill()
        self._status.result(_REAPING_SECONDS)
        os.close(self.pidfd)
        self.pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class OwnedProcess(_Child):
    """A child that is killed when we end, however we end, and with it whatever it has started.

    Args:
        command: The command, found on ``PATH``.
        output: Where its standard output and error go.
        environment: Its environment; ours if ``None``.
        pass_fds: Descriptors that it inherits.
        mounts: The mount namespace that it runs in; ours if ``None``.

    Raises:
        MissingToolError: The program does not exist.
        HostError: It could not be started.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        output: Path,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        mounts: MountNamespace | None = None,
    ) -> None:
        self.output = output
        with output.open("ab") as stream, open(os.devnull, "rb") as nothing:
            standard = (nothing.fileno(), stream.fileno(), stream.fileno())
            super().__init__([os.fspath(word) for word in command], environment, standard, pass_fds, None, mounts)

    def tail(self, lines: int = 10) -> str:
        """Return the last lines of its output."""
        text = self.output.read_text(errors="replace") if self.output.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


class AdoptedProcess(_Child):
    """What a child has left running, such as a daemon: an orphan that has become the keeper's child.

    Args:
        pid: Its process ID.

    Raises:
        HostError: It has ended, or is somebody else's child.
    """

    def __init__(self, pid: int) -> None:
        try:
            self._take(current_keeper().adopt(pid))
        except OSError as error:
            raise HostError(f"process {pid} is not left of ours: {error.strerror}") from error


class MountNamespace(_Child):
    """A mount namespace: what is mounted in it is not seen on the host, and goes with the last process in it.

    A process of its own keeps it, so that one can see what is mounted although nothing else runs there any more.

    Raises:
        HostError: It could not be made, as by somebody who is not root.
    """

    def __init__(self) -> None:
        with open(os.devnull, "rb") as nothing:
            try:
                self._take(current_keeper().start((), os.environ, (nothing.fileno(),) * 3))
            except OSError as error:
                raise HostError(f"could not make a mount namespace: {error.strerror}", hint="be root") from error
        self.descriptor = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def mounted(self, path: Path) -> bool:
        """Whether something is mounted at a path (proc(5), /proc/PID/mountinfo)."""
        point = os.fsencode(path)
        with open(f"/proc/{self.pid}/mountinfo", "rb") as stream:
            return any(line.split(b" ")[4] == point for line in stream)

    def close(self) -> None:
        """Give it up."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        super().close()


@frozen
class Completed:
    """A command that has ended.

    Args:
        status: Its exit status, or the negated signal that ended it.
        stdout: What it wrote to its standard output.
        stderr: What it wrote to its standard error.
        output: Its standard output as it was, of a program that does not write text.
    """

    status: int
    stdout: str
    stderr: str
    output: bytes

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        return in_words(self.status)


def in_words(status: int) -> str:
    """Return an exit status, or the negated signal in its place, in words."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    deadline: Deadline | float | None = None,
    mounts: MountNamespace | None = None,
) -> Completed:
    """Run a command to its end; raises as :class:`OwnedProcess` does.

    Args:
        command: The command, found on ``PATH``.
        environment: Its environment; ours if ``None``.
        directory: Its working directory.
        deadline: When to give up; it is killed then.
        mounts: The mount namespace that it runs in; ours if ``None``.

    Raises:
        DeadlineExceededError: It was still running.
    """
    words = [os.fspath(word) for word in command]
    with (
        open(os.devnull, "rb") as nothing,
        open(os.memfd_create("stdout"), "rb") as stdout,
        open(os.memfd_create("stderr"), "rb") as stderr,
    ):
        standard = (nothing.fileno(), stdout.fileno(), stderr.fileno())
        with _Child(words, environment, standard, (), directory, mounts) as child:
            status = child.wait(Deadline.of(deadline))
        for stream in (stdout, stderr):
            stream.seek(0)
        output, error = stdout.read(), stderr.read()
    return Completed(status, output.decode(errors="replace"), error.decode(errors="replace"), output)


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


def wait_readable(stream: _HasFileno, process: OwnedProcess, deadline: Deadline, awaited: str) -> None:
    """Wait until ``stream`` is readable, or say why it never will be.

    Args:
        stream: A socket, connected or listening.
        process: Who is expected to write to it.
        deadline: When to give up.
        awaited: What to name in the error.

    Raises:
        DeadlineExceededError: Nothing happened.
        ChildProcessError: The process ended first.
    """
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLIN)
    poll.register(process.pidfd, select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(deadline.remaining_ms)}
    if not ready:
        raise deadline.exceeded(awaited, process.tail())
    if process.pidfd in ready:
        raise ChildProcessError(process.ending)
