# SPDX-License-Identifier: Apache-2.0
"""Processes that have left us and still have our environment: a daemon that a test's own child has forked away."""

from __future__ import annotations

import os
import uuid

from kvtest.ownership.keeper import environment_of

# Not like the name of a setting: those are checked.
_VARIABLE = "_KVTEST_HEIR_OF"


class Heirs:
    """Those of one process; all that it starts from :meth:`mark` on has a word in its environment.

    A process that clears its environment, and one that was forked and executes nothing, is not known by it.
    """

    def __init__(self) -> None:
        self._entry = b""
        self._strangers: frozenset[int] = frozenset()

    def mark(self) -> str:
        """Put the word into this process's environment, once; return the entry."""
        if not self._entry:
            os.environ[_VARIABLE] = uuid.uuid4().hex
            self._entry = f"{_VARIABLE}={os.environ[_VARIABLE]}".encode()
        return self._entry.decode()

    def find(self) -> list[int]:
        """Return the processes that have the word (proc(5), /proc/PID/environ).

        One that has ended is not among them: a zombie has no environment.
        """
        if not self._entry:
            return []
        there = frozenset(int(name) for name in os.listdir("/proc") if name.isdigit())
        # Each is looked at once; a number is not given to another process in the time of a test.
        found = [pid for pid in there - self._strangers if self._entry in environment_of(pid)]
        self._strangers = there.difference(found)
        return found


#: Those of this process.
HEIRS = Heirs()
