# SPDX-License-Identifier: Apache-2.0
"""What a container's cgroup tells, and the signal that reaches all of it (Linux, admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
from collections.abc import Callable
from typing import Any

from kvtest.guest.reactor import Reactor

_ROOT = "/sys/fs/cgroup"
_UNLIMITED = (1 << 64) - 1
_MICROSECOND = 1000


class Cgroup:
    """The cgroup of one container.

    Args:
        path: From the root of the hierarchy.
    """

    def __init__(self, path: str) -> None:
        self.path = f"{_ROOT}{path}"

    def processes(self) -> list[int]:
        """Return the processes in it and below it."""
        found: list[int] = []
        for directory, _, files in os.walk(self.path):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError), open(f"{directory}/cgroup.procs", encoding="ascii") as stream:
                    found += [int(line) for line in stream]
        return found

    def kill(self, number: int) -> None:
        """Send every process in it a signal."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def frozen(self) -> bool:
        """Whether nothing in it runs because it was paused."""
        return self._table("cgroup.events").get("frozen") == 1

    def oom_kills(self) -> int:
        """Return how many processes in it were killed for want of memory."""
        return self._table("memory.events").get("oom_kill", 0)

    def statistics(self) -> dict[str, Any]:
        """Return the fields of ``grpc.CgroupStats``."""
        cpu, memory = self._table("cpu.stat"), self._table("memory.stat")
        return {
            "cpu_stats": {
                "cpu_usage": {
                    "total_usage": cpu.get("usage_usec", 0) * _MICROSECOND,
                    "usage_in_kernelmode": cpu.get("system_usec", 0) * _MICROSECOND,
                    "usage_in_usermode": cpu.get("user_usec", 0) * _MICROSECOND,
                },
                "throttling_data": {
                    "periods": cpu.get("nr_periods", 0),
                    "throttled_periods": cpu.get("nr_throttled", 0),
                    "throttled_time": cpu.get("throttled_usec", 0) * _MICROSECOND,
                },
            },
            "memory_stats": {
                "cache": memory.get("file", 0),
                "usage": {
                    "usage": self._number("memory.current"),
                    "max_usage": self._number("memory.peak"),
                    "failcnt": self._table("memory.events").get("max", 0),
                    "limit": self._number("memory.max"),
                },
                "use_hierarchy": True,
                "stats": memory,
            },
            "pids_stats": {"current": self._number("pids.current"), "limit": self._number("pids.max")},
        }

    def _table(self, name: str) -> dict[str, int]:
        return {key: int(value) for key, value in (line.split() for line in self._read(name).splitlines())}

    def _number(self, name: str) -> int:
        text = self._read(name).strip()
        return _UNLIMITED if text == "max" else int(text or 0)

    def _read(self, name: str) -> str:
        try:
            with open(f"{self.path}/{name}", encoding="ascii") as stream:
                return stream.read()
        except OSError:  # memory.peak is of 5.19, and the cgroup goes with its container
            return ""


class EventFiles:
    """Files of cgroups that tell of their changes, such as ``cgroup.events``.

    Args:
        reactor: Watches them.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._epoll = select.epoll()  # selectors do not wait for EPOLLPRI, by which these files tell of a change
        self._watched: dict[int, Callable[[], None]] = {}
        reactor.watch(self._epoll.fileno(), selectors.EVENT_READ, self._changed)

    def add(self, path: str, changed: Callable[[], None]) -> int | None:
        """Call back at each change; return what :meth:`remove` takes, or ``None`` if there is no such file."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        self._watched[descriptor] = changed
        self._epoll.register(descriptor, select.EPOLLPRI | select.EPOLLET)
        return descriptor

    def remove(self, descriptor: int | None) -> None:
        """Watch a file no more."""
        if descriptor is not None and descriptor in self._watched:
            del self._watched[descriptor]
            os.close(descriptor)

    def _changed(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            changed = self._watched.get(descriptor)
            if changed is not None:  # it was before another's change was told
                with contextlib.suppress(OSError):  # the cgroup has gone
                    os.pread(descriptor, 4096, 0)  # so that the next change is told
                changed()


class OOMWatch:
    """Tells when the kernel has killed a process of a container for want of memory.

    Args:
        files: Tells of changes.
    """

    def __init__(self, files: EventFiles) -> None:
        self._files = files

    def add(self, cgroup: Cgroup, killed: Callable[[], None]) -> int | None:
        """Call ``killed`` for each process; return what :meth:`remove` takes."""
        before = cgroup.oom_kills()

        def changed() -> None:
            nonlocal before
            now = cgroup.oom_kills()
            more, before = now > before, max(now, before)
            if more:
                killed()

        return self._files.add(f"{cgroup.path}/memory.events", changed)

    def remove(self, descriptor: int | None) -> None:
        """Watch a cgroup no more."""
        self._files.remove(descriptor)


class FreezeWatch:
    """Tells when a cgroup has come to a standstill, which it does some time after it was told to.

    Args:
        files: Tells of changes.
    """

    def __init__(self, files: EventFiles) -> None:
        self._files = files

    def when_frozen(self, cgroup: Cgroup, then: Callable[[], None]) -> Callable[[], None]:
        """Call ``then`` once nothing of a cgroup runs any more, now or later; return what ends the wait for it."""
        descriptor: int | None = None

        def stop() -> None:
            nonlocal descriptor
            self._files.remove(descriptor)
            descriptor = None

        def look() -> None:
            if descriptor is not None and cgroup.frozen:
                stop()
                then()

        descriptor = self._files.add(f"{cgroup.path}/cgroup.events", look)
        look()
        return stop
