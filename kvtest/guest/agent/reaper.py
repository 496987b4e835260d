# SPDX-License-Identifier: Apache-2.0
"""The ends of all processes below the agent, its own children and those that crun left to it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
from collections.abc import Callable

from kvtest.guest.libc import become_subreaper
from kvtest.guest.reactor import Reactor

_REMEMBERED = 256


class Reaper:
    """Calls back when a process has ended.

    Args:
        reactor: Tells of SIGCHLD.
    """

    def __init__(self, reactor: Reactor) -> None:
        become_subreaper()  # what crun starts outlives crun, and is then our child
        self._watchers: dict[int, Callable[[int], None]] = {}
        self._early: dict[int, int] = {}  # ended before anybody asked
        self._wakeup, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        reactor.watch(self._wakeup, selectors.EVENT_READ, self._reap)

    def watch(self, pid: int, ended: Callable[[int], None]) -> None:
        """Call ``ended`` with the wait status of a process, at once if it has ended already."""
        status = self._early.pop(pid, None)
        if status is None or os.path.exists(f"/proc/{pid}"):  # the status was that of an earlier process of that number
            self._watchers[pid] = ended
        else:
            ended(status)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = self._watchers.pop(pid, None)
            if ended is not None:
                ended(status)
            else:
                self._early[pid] = status
                while len(self._early) > _REMEMBERED:
                    del self._early[next(iter(self._early))]
