# SPDX-License-Identifier: Apache-2.0
"""crun's commands, run without waiting for them."""

from __future__ import annotations

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
            PROGRAM,
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
