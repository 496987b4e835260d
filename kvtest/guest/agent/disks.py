# SPDX-License-Identifier: Apache-2.0
"""Disks of the guest, and what is on them at this moment.

As in Kata's agent API, a disk is told by the PCI path of its device: its number on the first bus, in hexadecimal, and
with a slash before each the numbers on the buses behind it (kata-containers, src/agent, storages of the driver "blk").
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from kvtest.errors import RPCError
from kvtest.rpc.status import Code

BLOCK = "blk"
_BUS = "/sys/bus/pci/devices"
_BLKFLSBUF = 0x1261  # linux/fs.h


def fresh_disk(path: str) -> str:
    """Return the device of a disk whose content the host may have changed since it was last in use.

    Args:
        path: Its PCI path, such as ``10`` or ``10/00``.

    Raises:
        RPCError: There is none, or it is mounted.
    """
    device = _device(path)
    if device is None:
        raise RPCError(Code.INVALID_ARGUMENT, f"there is no disk at the PCI path {path!r}")
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise RPCError(Code.FAILED_PRECONDITION, f"the disk at the PCI path {path!r} is in use") from error
        raise
    try:
        fcntl.ioctl(descriptor, _BLKFLSBUF)  # what the kernel has kept of it is of another time
    finally:
        os.close(descriptor)
    return device


def _device(path: str) -> str | None:
    first, *behind = path.split("/")
    directory = f"{_BUS}/0000:00:{first}.0"
    with contextlib.suppress(OSError, ValueError):
        for number in behind:
            (function,) = (name for name in os.listdir(directory) if name.endswith(f":{number}.0"))
            directory = f"{directory}/{function}"
        (virtio,) = (name for name in os.listdir(directory) if name.startswith("virtio"))
        (name,) = os.listdir(f"{directory}/{virtio}/block")
        return f"/dev/{name}"
    return None
