# SPDX-License-Identifier: Apache-2.0
"""What a guest that was restored from a template must not share with its siblings, and how a template is made small."""

from __future__ import annotations

import fcntl
import os
import select
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
_MACHINE_ID_SIZE = 33
RECORD = struct.Struct(f"<q{_ENTROPY.size}s{_MACHINE_ID_SIZE}s64s")
_SPARE = 8 << 20  # bytes
_SETTLING_SECONDS = 1.5
_SPARE_PART = 32


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


class Personalization:
    """All that it takes to make this guest differ from every other that was restored from the same template.

    Made before the guest is frozen, so that a clone, which has translated nothing yet, comes through :meth:`apply` with
    as few instructions as can be: no file is opened or written to by a call, nothing is parsed.

    Args:
        data: Where the :func:`record` will be.
    """

    def __init__(self, data: memoryview) -> None:
        import mmap  # only guests that are to be frozen or were need it

        seeded, named = 8 + _ENTROPY.size, 8 + _ENTROPY.size + _MACHINE_ID_SIZE
        self._time = data[:8].cast("q")
        self._entropy, self._machine_id, self._hostname = data[8:seeded], data[seeded:named], data[named:]
        self._random = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
        try:
            file = os.open("/etc/machine-id", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o444)
            try:
                os.ftruncate(file, _MACHINE_ID_SIZE)
                self._machine_id_file = mmap.mmap(file, _MACHINE_ID_SIZE)
            finally:
                os.close(file)
        except BaseException:
            os.close(self._random)
            raise
        self._machine_id_file[:1] = self._machine_id_file[:1]  # so that the page is there, to be written to
        # Whatever we fork would inherit its state.
        self._seed = sys.modules["random"].seed if "random" in sys.modules else None

    def apply(self) -> None:
        """Be who the record says.

        Raises:
            OSError: The kernel refused something of it.
        """
        time.clock_settime_ns(time.CLOCK_REALTIME, self._time[0])
        fcntl.ioctl(self._random, _RNDADDENTROPY, self._entropy)
        fcntl.ioctl(self._random, _RNDRESEEDCRNG)
        if self._seed is not None:
            self._seed(self._entropy.tobytes())
        # It takes bytes, which its type does not say; the kernel's name ends at the first NUL.
        socket.sethostname(self._hostname.tobytes())  # type: ignore[arg-type]
        self._machine_id_file[:] = self._machine_id

    def close(self) -> None:
        """Give back what it holds."""
        os.close(self._random)
        self._machine_id_file.close()


def personalize(data: bytes) -> None:
    """Make this guest differ from every other that was restored from the same template.

    Args:
        data: A :func:`record`.

    Raises:
        OSError: The kernel refused something of it.
        ValueError: It is no record.
    """
    if len(data) != RECORD.size:
        raise ValueError(f"no identity: {len(data)} bytes, not {RECORD.size}")
    personalization = Personalization(memoryview(data))
    try:
        personalization.apply()
    finally:
        personalization.close()


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


def settle() -> None:
    """Let time pass until the kernel has done what it does a while after a boot and after the use of much memory.

    What is pending when a guest is frozen is what every clone begins with. There is no event to wait for but the time:
    statistics are gathered a second after the boot, and reclaim looks once more after a tenth of one.
    """
    select.select([], [], [], _SETTLING_SECONDS)


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
