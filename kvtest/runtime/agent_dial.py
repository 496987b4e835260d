# SPDX-License-Identifier: Apache-2.0
"""Dialling an agent: again and again until somebody answers, the deadline comes, or it is known to be in vain."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from threading import Event
from typing import Protocol

from kvtest.deadline import Deadline
from kvtest.errors import DeadlineExceededError, TransportError
from kvtest.runtime.agent_address import AgentAddress, HybridAddress, VsockAddress
from kvtest.vsock import HybridVsock, KernelVsock

# As runtime-rs does: 10 ms, doubled up to 500 ms.
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.5


class Cancellation(Protocol):
    """What ends the dialling before its time."""

    def wait(self, timeout: float | None) -> bool:
        """Wait for it, and return whether it is there."""


def dial(address: AgentAddress, deadline: Deadline | float, cancelled: Cancellation | None = None) -> socket.socket:
    """Return a connection to an agent.

    Args:
        address: Where it is.
        deadline: When to give up.
        cancelled: Ends the dialling when it comes.

    Raises:
        DeadlineExceededError: Nobody answered; the message has what was seen last.
        TransportError: Nobody ever will, or it was cancelled.
        HostError: The address is a vsock one, and this machine has no guests with such.
    """
    deadline = Deadline.of(deadline)
    cancelled = cancelled or Event()
    pause, seen = _FIRST_PAUSE, None
    while True:
        try:
            return _connect(address, deadline)
        except (ConnectionError, FileNotFoundError, TimeoutError, BlockingIOError) as error:
            seen = error.strerror or str(error)
        except DeadlineExceededError as error:  # of this attempt, which may have had no time at all
            seen = seen or error.message
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.EHOSTUNREACH, errno.ENETUNREACH):
                raise TransportError(f"could not connect to the agent at {address}: {error.strerror}") from error
            seen = error.strerror or str(error)
        if deadline.expired:
            raise deadline.exceeded(f"the agent at {address} to take a connection", seen)
        if cancelled.wait(deadline.within(pause).remaining):
            raise TransportError(f"dialling the agent at {address} was cancelled")
        pause = min(2 * pause, _LONGEST_PAUSE)


def _connect(address: AgentAddress, deadline: Deadline) -> socket.socket:
    left = deadline.within(10.0).remaining or 0.001
    if isinstance(address, HybridAddress):
        return HybridVsock(Path(address.path)).connect(address.port, max(left, 0.001))
    if isinstance(address, VsockAddress):
        return KernelVsock(address.cid).connect(address.port, max(left, 0.001))
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(max(left, 0.001))
        connection.connect(f"\0{address.path[1:]}" if address.path.startswith("@") else address.path)
    except BaseException:
        connection.close()
        raise
    return connection
