# SPDX-License-Identifier: Apache-2.0
"""What the interpreter itself keeps for as long as it runs: no test has to end that."""

from __future__ import annotations

import sys

from attrs import frozen


@frozen
class Helpers:
    """Helper processes of :mod:`multiprocessing`, started when first needed, and the descriptors that lead to them.

    Args:
        pids: The processes.
        descriptors: Our ends.
    """

    pids: frozenset[int]
    descriptors: frozenset[int]


def helpers() -> Helpers:
    """Return those that run; the modules tell of theirs only by asking for them, which would start them."""
    pids: set[int] = set()
    descriptors: set[int] = set()
    for module, name, pid, end in (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid", "_fd"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid", "_forkserver_alive_fd"),
    ):
        helper = getattr(sys.modules.get(module), name, None)
        if getattr(helper, pid, None) is not None:
            pids.add(getattr(helper, pid))
            descriptors.add(getattr(helper, end))
    return Helpers(frozenset(pids), frozenset(descriptors))
