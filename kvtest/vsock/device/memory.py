# SPDX-License-Identifier: Apache-2.0
"""Guest memory, mapped from the descriptors that the VMM sends."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence

from attrs import define, frozen

from kvtest.vsock.device.faults import DeviceFaultError, Fault

_LARGEST = 1 << 48


@frozen
class RegionDescription:
    """A row of the memory table (vhost-user, "Memory region description").

    Args:
        guest_address: Where the guest sees it.
        size: Bytes.
        user_address: Where the VMM sees it; addresses of queues are given in its terms.
        offset: Where it begins in the descriptor's file.
    """

    guest_address: int
    size: int
    user_address: int
    offset: int


@define
class _Region:
    description: RegionDescription
    mapping: mmap.mmap
    view: memoryview
    begin: int
    end: int


class GuestMemory:
    """The memory of one guest.

    Args:
        table: Its regions.
        descriptors: A file for each; not needed after this returns, and not closed.

    Raises:
        DeviceFaultError: A region overlaps another, or its file is shorter than it says. Touching memory beyond the end
            of a file would end this process with SIGBUS.
    """

    def __init__(self, table: Sequence[RegionDescription], descriptors: Sequence[int]) -> None:
        self._regions: list[_Region] = []
        try:
            for description, descriptor in zip(table, descriptors, strict=True):
                self._map(description, descriptor)
        except BaseException:
            self.close()
            raise

    def _map(self, row: RegionDescription, descriptor: int) -> None:
        def bad(reason: str) -> DeviceFaultError:
            return DeviceFaultError(Fault.BAD_MEMORY_TABLE, f"region at {row.guest_address:#x}: {reason}")

        if not 0 < row.size < _LARGEST or row.guest_address + row.size > 1 << 64 or row.offset >= _LARGEST:
            raise bad(f"size {row.size:#x}, offset {row.offset:#x}")
        size = os.fstat(descriptor).st_size
        if row.offset + row.size > size:
            raise bad(f"its file has {size:#x} bytes, {row.offset + row.size:#x} are needed")
        for other in self._regions:
            if row.guest_address < other.end and other.begin < row.guest_address + row.size:
                raise bad(f"overlaps the one at {other.begin:#x}")
        lead = row.offset % mmap.ALLOCATIONGRANULARITY
        try:
            mapping = mmap.mmap(descriptor, row.size + lead, offset=row.offset - lead)
        except (OSError, ValueError) as error:
            raise bad(str(error)) from error
        view = memoryview(mapping)[lead:]
        self._regions.append(_Region(row, mapping, view, row.guest_address, row.guest_address + row.size))

    def view(self, address: int, size: int) -> memoryview:
        """Return a piece of memory by its guest address.

        Raises:
            DeviceFaultError: It is not whole inside one region.
        """
        end = address + size
        for region in self._regions:
            if region.begin <= address and end <= region.end:
                return region.view[address - region.begin : end - region.begin]
        raise DeviceFaultError(Fault.ADDRESS_OUTSIDE_MEMORY, f"{size:#x} bytes at {address:#x}")

    def view_of_user(self, address: int, size: int) -> memoryview:
        """Return a piece of memory by the VMM's address.

        Raises:
            DeviceFaultError: It is not whole inside one region.
        """
        for region in self._regions:
            begin = region.description.user_address
            if begin <= address and address + size <= begin + region.description.size:
                return region.view[address - begin : address - begin + size]
        raise DeviceFaultError(Fault.ADDRESS_OUTSIDE_MEMORY, f"{size:#x} bytes at the VMM's {address:#x}")

    def close(self) -> None:
        """Unmap everything; views that somebody still holds keep their region until they go."""
        for region in self._regions:
            with contextlib.suppress(BufferError):
                region.view.release()
                region.mapping.close()
        self._regions.clear()
