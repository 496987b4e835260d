# SPDX-License-Identifier: Apache-2.0
"""What a guest that was restored from a template must not share with its siblings, and how a template is made small."""

from __future__ import annotations

import fcntl
import functools
import os
import socket
import struct
import sys
import time

# random(4): RNDADDENTROPY takes the bits to count, the size and the bytes; RNDRESEEDCRNG makes the kernel use them now.
_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207
_IOCTL_VM_SOCKETS_GET_LOCAL_CID = 0x7B9
_SPARE = 8 << 20


class _Files:
    """Files that a clone needs in its first moments, opened before it was frozen."""

    @functools.cached_property
    def random(self) -> int:
        return os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)

    @functools.cached_property
    def machine_id(self) -> int:
        return os.open("/etc/machine-id", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444)


_files = _Files()


def personalize(hostname: str, machine_id: str, seed: bytes, nanoseconds: int) -> None:
    """Make this guest differ from every other that was restored from the same template.

    Args:
        hostname: Its name.
        machine_id: 32 hexadecimal digits (machine-id(5)).
        seed: Random bytes that no other guest gets.
        nanoseconds: The time of day, since the epoch.
    """
    time.clock_settime_ns(time.CLOCK_REALTIME, nanoseconds)
    fcntl.ioctl(_files.random, _RNDADDENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
    fcntl.ioctl(_files.random, _RNDRESEEDCRNG)
    if "random" in sys.modules:  # whatever we fork would inherit its state
        sys.modules["random"].seed(seed)
    socket.sethostname(hostname)
    os.pwrite(_files.machine_id, machine_id.encode() + b"\n", 0)


def zero_free_memory() -> int:
    """Overwrite the memory that nobody uses with zeros, so that the host need not keep it; return how many bytes."""
    import mmap  # once in a template's life: no other guest pays for it

    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as stream:
        stream.write("3")
    with open("/proc/meminfo", encoding="ascii") as stream:
        fields = dict(line.split(":", 1) for line in stream)
    size = max(0, int(fields["MemFree"].split()[0]) * 1024 - _SPARE) & -mmap.PAGESIZE
    if size:
        zeros = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
                os.readv(zeros, [memory])
        finally:
            os.close(zeros)
    return size


def local_cid() -> int | None:
    """Return the guest's vsock address, or ``None`` while it has no vsock device (linux/vm_sockets.h)."""
    try:
        descriptor = os.open("/dev/vsock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        (cid,) = struct.unpack("I", fcntl.ioctl(descriptor, _IOCTL_VM_SOCKETS_GET_LOCAL_CID, bytes(4)))
    finally:
        os.close(descriptor)
    return None if cid == socket.VMADDR_CID_ANY else int(cid)
