# SPDX-License-Identifier: Apache-2.0
"""How much memory this machine has to give."""

from __future__ import annotations

from kvtest.errors import HostError

WORKER_MEMORY = 512
"""MiB that a worker takes besides a guest's memory: pytest, QEMU, and the copy of the memory that vsock needs."""


def workers_with_room(memory: int) -> int:
    """Return how many workers, with a guest each, there is memory for; at least one.

    Args:
        memory: MiB of a guest.
    """
    return max(1, available_memory() // ((memory + WORKER_MEMORY) << 20))


def available_memory() -> int:
    """Return how many bytes of memory can be had without swapping (proc(5), /proc/meminfo)."""
    with open("/proc/meminfo", encoding="ascii") as stream:
        fields = dict(line.split(":", 1) for line in stream)
    return int(fields["MemAvailable"].split()[0]) * 1024


def require_memory(mebibytes: int, who: str) -> None:
    """See that there is memory for somebody.

    Args:
        mebibytes: MiB that are needed.
        who: Who needs them.

    Raises:
        HostError: There is less.
    """
    available = available_memory() >> 20
    if available < mebibytes:
        raise HostError(
            f"{who} takes {mebibytes} MiB of memory, and {available} MiB are available",
            hint="end what else takes memory here, or run on another machine: --host ssh://[USER@]MACHINE",
        )
