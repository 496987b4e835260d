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
# The time of day in nanoseconds; what RNDADDENTROPY takes; a line of /etc/machine-id; a name, filled up with NULs.
_SEED_SIZE = 64
_ENTROPY = struct.Struct(f"ii{_SEED_SIZE}s")
RECORD = struct.Struct(f"<q{_ENTROPY.size}s33s64s")
_SPARE = 8 << 20  # bytes
_SPARE_PART = 32


class _Files:
    """Files that a clone needs in its first moments, opened before it was frozen."""

    @functools.cached_property
    def random(self) -> int:
        return os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)

    @functools.cached_property
    def machine_id(self) -> int:
        return os.open("/etc/machine-id", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444)


_files = _Files()


def record(hostname: str, machine_id: str, seed: bytes, nanoseconds: int) -> bytes:
    """Return what tells a guest who it is, as :func:`personalize` takes it.

    Args:
        hostname: Its name, which is cut to 64 bytes (sethostname(2)).
        machine_id: 32 hexadecimal digits (machine-id(5)).
        seed: 64 random bytes that no other guest gets.
        nanoseconds: The time of day, since the epoch.
    """
    entropy = _ENTROPY.pack(len(seed) * 8, len(seed), seed)
    return RECORD.pack(nanoseconds, entropy, machine_id.encode() + b"\n", hostname.encode())


def personalize(data: bytes) -> None:
    """Make this guest differ from every other that was restored from the same template.

    Args:
        data: A :func:`record`.

    Raises:
        OSError: The kernel refused something of it.
        ValueError: It is no record.
    """
    try:
        nanoseconds, entropy, machine_id, hostname = RECORD.unpack(data)
    except struct.error as error:
        raise ValueError(f"no identity: {error}") from None
    time.clock_settime_ns(time.CLOCK_REALTIME, nanoseconds)
    fcntl.ioctl(_files.random, _RNDADDENTROPY, entropy)
    fcntl.ioctl(_files.random, _RNDRESEEDCRNG)
    if "random" in sys.modules:  # whatever we fork would inherit its state
        sys.modules["random"].seed(entropy)
    socket.sethostname(hostname.rstrip(b"\0"))
    os.pwrite(_files.machine_id, machine_id, 0)


def zero_free_memory() -> int:
    """Overwrite the memory that nobody uses with zeros, so that the host need not keep it; return how many bytes."""
    import mmap  # once in a template's life: no other guest pays for it

    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as stream:
        stream.write("3")
    with open("/proc/meminfo", encoding="ascii") as stream:
        fields = dict(line.split(":", 1) for line in stream)
    free = int(fields["MemFree"].split()[0]) * 1024
    # The kernel wants some for page tables and for itself, and a larger guest's wants more.
    size = max(0, free - max(_SPARE, free // _SPARE_PART)) & -mmap.PAGESIZE
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
