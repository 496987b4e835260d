# SPDX-License-Identifier: Apache-2.0
"""crun's commands, run without waiting for them."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence

from kvtest.guest.agent.reaper import Reaper

PROGRAM = "/usr/bin/crun"
_AT_ONCE = 4  # each takes memory, and the guest has few processors

#: Called with ``None``, or with what crun said when it failed.
Done = Callable[[str | None], None]
Stdio = tuple[int, int, int]


class Crun:
    """Runs crun.

    Args:
        reaper: Tells of the ends of its processes.
        directory: Where its state and logs are kept.
    """

    def __init__(self, reaper: Reaper, directory: str) -> None:
        self._reaper = reaper
        self._state = f"{directory}/crun"
        self._logs = f"{directory}/logs"
        self._numbers = itertools.count(1)
        self._running = 0
        self._waiting: deque[tuple[Sequence[str], Stdio | None, Done]] = deque()
        self._program = _sealed_copy(PROGRAM)
        self._nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for path in (self._state, self._logs):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def run(self, arguments: Sequence[str], done: Done, stdio: Stdio | None = None) -> None:
        """Run a command.

        Args:
            arguments: What follows the global options.
            done: Called when it has ended.
            stdio: Its standard streams, which a container inherits.
        """
        self._waiting.append((arguments, stdio, done))
        self._next()

    def _next(self) -> None:
        while self._waiting and self._running < _AT_ONCE:
            self._start(*self._waiting.popleft())

    def _start(self, arguments: Sequence[str], stdio: Stdio | None, done: Done) -> None:
        log = f"{self._logs}/{next(self._numbers)}"
        argv = [PROGRAM, "--root", self._state, "--cgroup-manager", "cgroupfs", "--log", log, *arguments]
        streams = stdio or (self._nothing,) * 3
        pid = os.posix_spawn(
            self._program,
            argv,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(streams)],
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGCHLD],
        )
        self._running += 1
        self._reaper.watch(pid, lambda status: self._ended(status, log, done))

    def _ended(self, status: int, log: str, done: Done) -> None:
        self._running -= 1
        said = ""
        try:
            with open(log, encoding="utf-8", errors="replace") as stream:
                said = stream.read().strip()
            os.unlink(log)
        except FileNotFoundError:
            pass
        code = os.waitstatus_to_exitcode(status)
        try:
            done(None if code == 0 else said or f"crun ended with {code}")
        except Exception as error:
            done(f"{type(error).__name__}: {error}")  # whoever asked gets an answer
            raise
        finally:
            self._next()


def _sealed_copy(path: str) -> str:
    """Return the path of a copy of a program that nobody can change.

    crun runs from such a copy of itself, so that no container can write to it (CVE-2019-5736), and makes one each time
    that it is started from anything else, which takes as long as all the rest of a command.
    """
    copy = os.memfd_create("crun", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(path, "rb") as stream:
        os.sendfile(copy, stream.fileno(), 0, os.fstat(stream.fileno()).st_size)
    fcntl.fcntl(
        copy, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    )
    return f"/proc/self/fd/{copy}"
