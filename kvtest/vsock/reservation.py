# SPDX-License-Identifier: Apache-2.0
"""Addresses of the host kernel's vhost-vsock: held by an open descriptor, and by nobody else (linux/vhost.h).

Whoever has no such descriptor, and finds that nobody has, opens no AF_VSOCK socket: it would reach another
hypervisor's transport, or none.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import struct
from types import TracebackType

from kvtest.errors import HostError

DEVICE = "/dev/vhost-vsock"
_VHOST_SET_OWNER = 0xAF01
_VHOST_VSOCK_SET_GUEST_CID = 0x4008AF60
_CURE = "modprobe vhost_vsock, as root; kvtest doctor says what else may be wrong"
# 0 to 2 have meanings of their own, and 2**32 - 1 stands for any (vsock(7)).
FIRST_CID = 3
LAST_CID = 2**32 - 2
_TRIES = 16


class ReservedCid:
    """A CID that is ours, as long as a descriptor is open; QEMU gets it as ``vhostfd``.

    Args:
        cid: The CID; a free one is found if ``None``.
        device: The device.

    Raises:
        HostError: The device cannot be used, or the CID is another guest's.
    """

    def __init__(self, cid: int | None = None, device: str = DEVICE) -> None:
        try:
            self.descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"{device} does not open: {error.strerror}", hint=_CURE) from error
        try:
            self.cid = self._reserve(device, [cid] if cid is not None else _candidates())
        except BaseException:
            self.close()
            raise

    def _reserve(self, device: str, candidates: list[int]) -> int:
        for cid in candidates:
            try:
                fcntl.ioctl(self.descriptor, _VHOST_VSOCK_SET_GUEST_CID, struct.pack("=Q", cid))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise HostError(f"{device} opens, but reserves no CID: {error.strerror}", hint=_CURE) from error
            else:
                return cid
        if len(candidates) == 1:
            raise HostError(f"CID {candidates[0]} is another guest's", hint="choose another, or leave it to kvtest")
        raise HostError(f"{device} opens, but {len(candidates)} CIDs in a row were in use")

    def close(self) -> None:
        """Give it back; a process that has inherited the descriptor keeps it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> ReservedCid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _candidates() -> list[int]:
    return [random.randint(FIRST_CID, LAST_CID) for _ in range(_TRIES)]


def is_reserved(cid: int) -> bool:
    """Whether somebody on this machine holds a CID.

    Raises:
        HostError: There is no way to know.
    """
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{DEVICE} does not open: {error.strerror}", hint=_CURE) from error
    try:
        fcntl.ioctl(device, _VHOST_SET_OWNER)
        fcntl.ioctl(device, _VHOST_VSOCK_SET_GUEST_CID, struct.pack("=Q", cid))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return True
        raise HostError(f"could not ask {DEVICE} about CID {cid}: {error.strerror}") from error
    finally:
        os.close(device)
    return False


def require_reserved(cid: int) -> None:
    """Check that a guest of this machine has a CID; to be done before an AF_VSOCK socket is connected to it.

    Raises:
        HostError: Nobody holds it, or there is no way to know.
    """
    if not is_reserved(cid):
        raise HostError(f"no guest of this machine has the CID {cid}", hint="is it running, with vhost-vsock-pci?")
