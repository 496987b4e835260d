# SPDX-License-Identifier: Apache-2.0
"""What a container uses, whichever version of control groups it is told of in."""

from __future__ import annotations

from attrs import frozen

from kvtest.errors import RPCError
from kvtest.rpc.api import load
from kvtest.rpc.status import Code

_V1 = "io.containerd.cgroups.v1.Metrics"
_V2 = "io.containerd.cgroups.v2.Metrics"
_MICROSECOND = 1000  # nanoseconds


@frozen
class Usage:
    """What a container uses.

    Args:
        processes: How many processes and threads it has.
        memory: Bytes of memory, with those of its part of the page cache.
        cpu: Nanoseconds of processors' time so far.
    """

    processes: int
    memory: int
    cpu: int


def decoded(kind: str, message: bytes) -> Usage:
    """Return what the answer of a shim says.

    Args:
        kind: The type of the message.
        message: The message.

    Raises:
        RPCError: It is of no type that is known.
    """
    name = kind.rpartition("/")[2]
    if name not in (_V1, _V2):
        raise RPCError(Code.UNIMPLEMENTED, f"what a container uses is told as {kind!r}, not as {_V1} or {_V2}")
    metrics = load("task").message(name).FromString(message)
    if name == _V1:
        return Usage(metrics.pids.current, metrics.memory.usage.usage, metrics.cpu.usage.total)
    return Usage(metrics.pids.current, metrics.memory.usage, metrics.cpu.usage_usec * _MICROSECOND)
