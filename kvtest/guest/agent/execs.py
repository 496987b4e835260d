# SPDX-License-Identifier: Apache-2.0
"""The processes of a container beside its first one."""

from __future__ import annotations

from collections.abc import Iterator

from kvtest.guest.agent.process import Process

KEPT = 64
"""How many that have ended, and whose status somebody has got, are still known."""


class Execs:
    """Processes by their names.

    Kata's agent forgets a process with the first answer to a WaitProcess (``do_wait_process`` in its rpc.rs). This one
    does so later, for whoever asks again or reads on; but not never, as a container may live long and have many.
    """

    def __init__(self) -> None:
        self.known: dict[str, Process] = {}
        self._told: dict[Process, str] = {}  # their names, in the order in which somebody got their status

    def __iter__(self) -> Iterator[Process]:
        return iter(list(self.known.values()))

    def find(self, name: str) -> Process | None:
        """Return the process of a name, if there is one."""
        return self.known.get(name)

    def add(self, name: str, process: Process) -> None:
        """Take a process, in the place of one of that name that has ended."""
        before = self.known.get(name)
        if before is not None:
            self.remove(name, before)
        self.known[name] = process
        process.told = lambda: self._note(name, process)

    def remove(self, name: str, process: Process) -> None:
        """Forget a process, and give back what it has; another of its name stays."""
        self._told.pop(process, None)
        if self.known.get(name) is process:
            del self.known[name]
        process.close()

    def _note(self, name: str, process: Process) -> None:
        if self.known.get(name) is process:
            self._told.setdefault(process, name)
        while len(self._told) > KEPT:
            oldest = next(iter(self._told))
            self.remove(self._told[oldest], oldest)
