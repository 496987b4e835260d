# SPDX-License-Identifier: Apache-2.0
"""How much memory this machine has to give."""

from __future__ import annotations

from pathlib import Path

from kvtest.errors import HostError
from kvtest.host import cgroup_memory

WORKER_MEMORY = 512
"""MiB that a worker takes besides a guest's memory: pytest, QEMU, and the copy of the memory that vsock needs."""

LAB_MEMORY = 3072
"""MiB of a lab host: it takes some 300 itself, and each guest in it up to 300 more."""

_ROOT = Path("/")


def workers_with_room(memory: int) -> int:
    """Return how many workers, with a guest each, there is memory for; at least one.

    Args:
        memory: MiB of a guest.
    """
    return max(1, available_memory() // ((memory + WORKER_MEMORY) << 20))


def available_memory(root: Path = _ROOT) -> int:
    """Return how many bytes of memory can be had without swapping, by the machine and by our cgroups.

    Args:
        root: What ``proc`` and the mount points of cgroups are below.
    """
    with (root / "proc/meminfo").open(encoding="ascii") as stream:  # proc(5)
        fields = dict(line.split(":", 1) for line in stream)
    return min((int(fields["MemAvailable"].split()[0]) * 1024, *cgroup_memory.rooms(root)))


def require_memory(mebibytes: int, who: str, root: Path = _ROOT) -> None:
    """See that there is memory for somebody.

    Args:
        mebibytes: MiB that are needed.
        who: Who needs them.
        root: See :func:`available_memory`.

    Raises:
        HostError: There is less.
    """
    available = available_memory(root) >> 20
    if available < mebibytes:
        raise HostError(
            f"{who} takes {mebibytes} MiB of memory, and {available} MiB are available",
            hint="end what else takes memory here, give more to the cgroup that this runs in if it has a limit, "
            "or run on another machine: --host ssh://[USER@]MACHINE",
        )
