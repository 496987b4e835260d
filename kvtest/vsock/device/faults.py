# SPDX-License-Identifier: Apache-2.0
"""The rules that a guest, or its VMM, can break."""

from __future__ import annotations

from enum import StrEnum

from kvtest.errors import DeviceError


class Fault(StrEnum):
    """A broken rule; sections are those of virtio 1.2."""

    ADDRESS_OUTSIDE_MEMORY = "an address outside guest memory"
    BAD_MEMORY_TABLE = "a memory table that cannot be mapped"
    BAD_MESSAGE = "a malformed vhost-user message"
    BAD_QUEUE = "a queue that cannot be"  # 2.7
    AVAILABLE_INDEX_JUMP = "more available buffers than the queue has"  # 2.7.13.3
    DESCRIPTOR_OUT_OF_RANGE = "a descriptor index beyond the table"  # 2.7.5
    DESCRIPTOR_LOOP = "a descriptor chain that does not end"  # 2.7.5
    INDIRECT_DESCRIPTOR = "an indirect descriptor, which was not negotiated"  # 2.7.5.3
    WRONG_DIRECTION = "a descriptor of the wrong direction"  # 2.7.5
    SHORT_BUFFER = "a buffer too short for a packet header"  # 5.10.6
    WRONG_LENGTH = "a packet length that its buffer does not have"  # 5.10.6


class DeviceFaultError(DeviceError):
    """A guest broke a rule.

    Args:
        fault: Which.
        seen: The values, for people.
    """

    def __init__(self, fault: Fault, seen: str) -> None:
        super().__init__(f"{fault.value}: {seen}")
        self.fault = fault
