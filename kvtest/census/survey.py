# SPDX-License-Identifier: Apache-2.0
"""One look at everything that is ours."""

from __future__ import annotations

import os

from kvtest.census import kernel
from kvtest.census.descriptors import descriptors, reserved_cids
from kvtest.census.marks import Marks
from kvtest.census.memory import shared_memory
from kvtest.census.mounts import mounts
from kvtest.census.paths import paths
from kvtest.census.processes import processes
from kvtest.census.sockets import unix_sockets, vsock_sockets
from kvtest.census.thing import Kind, Thing
from kvtest.ownership.run_directory import existing


def survey(marks: Marks) -> frozenset[Thing]:
    """Return everything on the host that is ours at this moment.

    Args:
        marks: What tells that something is ours which no process of ours holds.
    """
    running = list(processes())
    pids = {process.pid for process in running} | {os.getpid()}
    found = {*running, *descriptors(), *reserved_cids(pids)}
    found |= {Thing(Kind.RUN_DIRECTORY, (str(path),), str(path)) for path in existing()}
    found |= {*unix_sockets(marks), *vsock_sockets(marks), *mounts(marks, running)}
    found |= {*kernel.cgroups(marks), *kernel.network_namespaces(marks), *kernel.network_devices(marks)}
    found |= {*kernel.loop_devices(marks), *shared_memory(marks, pids), *paths(marks)}
    return frozenset(found)
