# SPDX-License-Identifier: Apache-2.0
"""Removing by force what somebody has left, so that it is found once and not by every test after."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
from collections.abc import Iterable

from kvtest.census.thing import Kind, Thing
from kvtest.deadline import Deadline
from kvtest.ownership.keeper import end, remove

_ENDING_SECONDS = 5.0
_MNT_DETACH = 2  # umount2(2)
_libc = ctypes.CDLL(None, use_errno=True)


def remove_by_force(things: Iterable[Thing]) -> None:
    """End processes, detach mounts, and remove cgroups and paths; what cannot be removed stays.

    A cgroup is removed once its processes have ended, so they are waited for, for a while.

    Args:
        things: What a survey has found; kinds other than these are left alone.
    """
    found = list(things)
    pids = [thing.pid for thing in found if thing.kind is Kind.PROCESS]
    for pid in pids:
        end(pid)
    _await_end(pids, Deadline(_ENDING_SECONDS))
    order = [Kind.MOUNT, Kind.CGROUP, Kind.PATH]
    # What is mounted or made below something has the longer path, and goes first.
    rest = [thing for thing in found if thing.kind in order]
    for thing in sorted(rest, key=lambda thing: (order.index(thing.kind), -len(thing.text))):
        with contextlib.suppress(OSError):
            if thing.kind is Kind.MOUNT and not thing.namespace:
                _libc.umount2(os.fsencode(str(thing.identity[2])), _MNT_DETACH)
            elif thing.kind is Kind.CGROUP:
                os.rmdir(thing.text)
            elif thing.kind is Kind.PATH:
                remove(thing.text)


def _await_end(pids: Iterable[int], deadline: Deadline) -> None:
    """Wait until processes have ended, or the deadline has passed."""
    for pid in pids:
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                poll.poll(deadline.remaining_ms)
            finally:
                os.close(pidfd)
