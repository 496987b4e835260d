# SPDX-License-Identifier: Apache-2.0
"""Dialling an agent: again and again until somebody answers, the deadline comes, or it is known to be in vain."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from pathlib import Path
from threading import Event

from kvtest.deadline import Deadline
from kvtest.errors import DeadlineExceededError, HostError, TransportError
from kvtest.runtime.agent_address import AgentAddress, HybridAddress, SerialAddress, UnixAddress, VsockAddress
from kvtest.vsock import HybridVsock

_DEVICE = "/dev/vhost-vsock"
_VHOST_SET_OWNER = 0xAF01
_VHOST_VSOCK_SET_GUEST_CID = 0x4008AF60  # linux/vhost.h
# As runtime-rs does: 10 ms, doubled up to 500 ms.
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.5


def dial(address: AgentAddress, deadline: Deadline | float, cancelled: Event | None = None) -> socket.socket:
    """Return a connection to an agent.

    Args:
        address: Where it is.
        deadline: When to give up.
        cancelled: Ends the dialling when set.

    Raises:
        DeadlineExceededError: Nobody answered; the message has what was seen last.
        TransportError: Nobody ever will, or it was cancelled.
        HostError: The address is a vsock one that nobody has reserved on this machine.
    """
    deadline = Deadline.of(deadline)
    cancelled = cancelled or Event()
    if isinstance(address, VsockAddress):
        require_reserved(address.cid)
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
    family = socket.AF_VSOCK if isinstance(address, VsockAddress) else socket.AF_UNIX
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(max(left, 0.001))
        connection.connect(_socket_address(address))
    except BaseException:
        connection.close()
        raise
    return connection


def _socket_address(address: VsockAddress | UnixAddress | SerialAddress) -> str | tuple[int, int]:
    if isinstance(address, VsockAddress):
        return (address.cid, address.port)
    return f"\0{address.path[1:]}" if address.path.startswith("@") else address.path


def require_reserved(cid: int) -> None:
    """Check that a VM of this machine has an address.

    An AF_VSOCK socket is opened only if somebody holds the CID through ``/dev/vhost-vsock``: without that it would
    reach another hypervisor's transport, or none.

    Raises:
        HostError: Nobody holds it, or there is no way to know.
    """
    try:
        device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"vsock://{cid} cannot be used here: {_DEVICE}: {error.strerror}",
            hint="modprobe vhost_vsock, as root; or reach the guest with hvsock:// or unix://",
        ) from error
    try:
        fcntl.ioctl(device, _VHOST_SET_OWNER)
        fcntl.ioctl(device, _VHOST_VSOCK_SET_GUEST_CID, struct.pack("=Q", cid))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return
        raise HostError(f"could not ask {_DEVICE} about CID {cid}: {error.strerror}") from error
    finally:
        os.close(device)
    raise HostError(f"no VM of this machine has the CID {cid}", hint="is it running, with vhost-vsock-pci?")
