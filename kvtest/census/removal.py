# SPDX-License-Identifier: Apache-2.0
"""Removing by force what somebody has left, so that it is found once and not by every test after."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable

from kvtest.census.thing import Kind, Thing
from kvtest.ownership.keeper import remove

_MNT_DETACH = 2  # umount2(2)
_libc = ctypes.CDLL(None, use_errno=True)


def remove_by_force(things: Iterable[Thing]) -> None:
    """End processes, detach mounts, and remove cgroups and paths; what cannot be removed stays.

    Args:
        things: What a survey has found; kinds other than these are left alone.
    """
    order = [Kind.PROCESS, Kind.MOUNT, Kind.CGROUP, Kind.PATH]
    found = [thing for thing in things if thing.kind in order]
    # What is mounted or made below something has the longer path, and goes first.
    for thing in sorted(found, key=lambda thing: (order.index(thing.kind), -len(thing.text))):
        with contextlib.suppress(OSError):
            if thing.kind is Kind.PROCESS:
                os.kill(thing.pid, signal.SIGKILL)
            elif thing.kind is Kind.MOUNT and not thing.namespace:
                _libc.umount2(os.fsencode(str(thing.identity[2])), _MNT_DETACH)
            elif thing.kind is Kind.CGROUP:
                os.rmdir(thing.text)
            elif thing.kind is Kind.PATH:
                remove(thing.text)
