# SPDX-License-Identifier: Apache-2.0
"""A split virtqueue, from the device's side (virtio 1.2, 2.7).

Indices are read and written through views of 16-bit items, which are single loads and stores; ``struct`` would write
byte by byte, and the guest could see half an index. The architecture's order of stores does the rest (x86).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kvtest.vsock.device.faults import DeviceFaultError, Fault
from kvtest.vsock.device.memory import GuestMemory

LARGEST_QUEUE = 32768

_DESCRIPTOR = struct.Struct("<QIHH")
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT = 1  # in the available ring's flags
_NO_NOTIFY = 1  # in the used ring's flags


class Addresses(NamedTuple):
    """Where the parts of a queue are, in the VMM's terms."""

    descriptors: int
    available: int
    used: int


class Chain(NamedTuple):
    """A descriptor chain.

    Args:
        head: Index of its first descriptor.
        buffers: Its pieces, in order.
    """

    head: int
    buffers: list[memoryview]


class VirtQueue:
    """A queue.

    Args:
        memory: Guest memory.
        size: Number of descriptors.
        addresses: Where its parts are.
        base: Index of the first available entry that has not been taken.
        writable: Whether its buffers are for the device to write.

    Raises:
        DeviceFaultError: The size is not a power of two, or a part is not in memory or not aligned.
    """

    def __init__(self, memory: GuestMemory, size: int, addresses: Addresses, base: int, *, writable: bool) -> None:
        if not 0 < size <= LARGEST_QUEUE or size & (size - 1):
            raise DeviceFaultError(Fault.BAD_QUEUE, f"its size is {size}")
        if addresses.descriptors % 16 or addresses.available % 2 or addresses.used % 4:
            raise DeviceFaultError(Fault.BAD_QUEUE, f"its parts are not aligned: {', '.join(map(hex, addresses))}")
        self._memory = memory
        self._size = size
        self._mask = size - 1
        self._writable = writable
        self._table = memory.view_of_user(addresses.descriptors, 16 * size)
        self._available = memory.view_of_user(addresses.available, 4 + 2 * size).cast("H")
        used = memory.view_of_user(addresses.used, 4 + 8 * size)
        self._used = used.cast("H")
        self._elements = used[4:].cast("I")
        self._taken = base & 0xFFFF
        self._used_index = self._used[1]

    @property
    def base(self) -> int:
        """Index of the first available entry that has not been taken."""
        return self._taken

    def pending(self) -> int:
        """Return how many chains can be taken.

        Raises:
            DeviceFaultError: There are more than the queue can hold.
        """
        count = (self._available[1] - self._taken) & 0xFFFF
        if count > self._size:
            raise DeviceFaultError(Fault.AVAILABLE_INDEX_JUMP, f"{count} in a queue of {self._size}")
        return count

    def peek(self, position: int) -> Chain:
        """Return the chain at a position after the first that was not taken.

        Args:
            position: Below :meth:`pending`.

        Raises:
            DeviceFaultError: The guest broke a rule of descriptors.
        """
        head = self._available[2 + ((self._taken + position) & self._mask)]
        buffers: list[memoryview] = []
        index = head
        while True:
            if index >= self._size:
                raise DeviceFaultError(Fault.DESCRIPTOR_OUT_OF_RANGE, f"{index} in a table of {self._size}")
            address, length, flags, following = _DESCRIPTOR.unpack_from(self._table, 16 * index)
            if flags & _INDIRECT:
                raise DeviceFaultError(Fault.INDIRECT_DESCRIPTOR, f"descriptor {index}")
            if bool(flags & _WRITE) is not self._writable:
                expected = "writable" if self._writable else "readable"
                raise DeviceFaultError(Fault.WRONG_DIRECTION, f"descriptor {index} is not {expected} by the device")
            buffers.append(self._memory.view(address, length))
            if not flags & _NEXT:
                return Chain(head, buffers)
            if len(buffers) >= self._size:
                raise DeviceFaultError(Fault.DESCRIPTOR_LOOP, f"from descriptor {head}")
            index = following

    def complete(self, head: int, written: int) -> None:
        """Take the next chain and put it into the used ring; the guest sees it after :meth:`publish`.

        Args:
            head: Its first descriptor.
            written: Bytes that the device wrote to it.
        """
        position = 2 * (self._used_index & self._mask)
        self._elements[position] = head
        self._elements[position + 1] = written
        self._used_index = (self._used_index + 1) & 0xFFFF
        self._taken = (self._taken + 1) & 0xFFFF

    def publish(self) -> bool:
        """Show the guest what was completed; return whether it wants an interrupt."""
        self._used[1] = self._used_index
        return not self._available[0] & _NO_INTERRUPT

    def notify_me(self, wanted: bool) -> None:
        """Tell the guest whether to notify of new buffers; after asking, look once more for some."""
        self._used[0] = 0 if wanted else _NO_NOTIFY

    def close(self) -> None:
        """Let go of guest memory."""
        for view in (self._table, self._available, self._elements, self._used):
            view.release()
