# SPDX-License-Identifier: Apache-2.0
"""What the front-end has set up: memory, queues, eventfds. Turns its messages into queues that can be used."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable

from attrs import define

from kvtest.vsock.device import vhost_user
from kvtest.vsock.device.faults import DeviceFaultError, Fault
from kvtest.vsock.device.memory import GuestMemory
from kvtest.vsock.device.queue import Addresses, VirtQueue
from kvtest.vsock.device.vhost_user import Kind, Message

RECEIVE, TRANSMIT = 0, 1  # queues by their index; the event queue is the VMM's own (virtio 1.2, 5.10.2)
_FEATURES = vhost_user.VIRTIO_F_VERSION_1 | vhost_user.PROTOCOL_FEATURES
_PROTOCOL_FEATURES = vhost_user.PROTOCOL_CONFIG | vhost_user.PROTOCOL_REPLY_ACK
_LARGEST_CONFIGURATION = 256


@define
class Ring:
    """A queue in the making.

    Args:
        queue: The queue, once it runs.
        kick: The guest notifies through this eventfd; -1 if there is none yet.
        call: We interrupt through this one.
    """

    size: int = 0
    addresses: Addresses | None = None
    base: int = 0
    enabled: bool = False
    queue: VirtQueue | None = None
    kick: int = -1
    call: int = -1

    def barrier(self) -> None:
        """Order our stores before the loads that follow: a system call that takes a lock is a full barrier."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.kick)

    def interrupt(self) -> None:
        """Interrupt the guest."""
        if self.call >= 0:
            os.eventfd_write(self.call, 1)


class Rings:
    """The state of one front-end.

    Args:
        guest_cid: What its configuration space says.
        changed: Called with the index of a queue before it starts to run, and after it has stopped.
    """

    def __init__(self, guest_cid: int, changed: Callable[[int], None]) -> None:
        self.rings = [Ring(), Ring()]
        self._configuration = struct.pack("<Q", guest_cid)
        self._changed = changed
        self._memory: GuestMemory | None = None

    def handle(self, message: Message) -> bytes | None:
        """Act on a message; return the payload of the reply, if it has one.

        Raises:
            DeviceFaultError: It cannot be.
        """
        match message.kind:
            case Kind.GET_FEATURES:
                return struct.pack("<Q", _FEATURES)
            case Kind.GET_PROTOCOL_FEATURES:
                return struct.pack("<Q", _PROTOCOL_FEATURES)
            case Kind.GET_QUEUE_NUM:
                return struct.pack("<Q", len(self.rings))
            case Kind.GET_CONFIG:
                return self._read_configuration(message)
            case Kind.GET_VRING_BASE:
                return self._stop(message)
            case Kind.SET_FEATURES | Kind.SET_PROTOCOL_FEATURES:
                self._accept_features(message)
            case Kind.SET_MEM_TABLE:
                self._set_memory(message)
            case Kind.SET_VRING_NUM:
                index, size = vhost_user.vring_state(message)
                self._ring(index).size = size
            case Kind.SET_VRING_BASE:
                index, base = vhost_user.vring_state(message)
                self._ring(index).base = base
            case Kind.SET_VRING_ADDR:
                index, addresses = vhost_user.vring_addresses(message)
                self._ring(index).addresses = addresses
            case Kind.SET_VRING_KICK | Kind.SET_VRING_CALL:
                self._set_descriptor(message)
            case Kind.SET_VRING_ENABLE:
                index, enabled = vhost_user.vring_state(message)
                self._ring(index).enabled = bool(enabled)
                self._start(index)
            case Kind.SET_OWNER | Kind.RESET_OWNER | Kind.SET_VRING_ERR:
                pass  # nothing to do for a device that has one owner and tells errors by itself
            case _:
                raise DeviceFaultError(Fault.BAD_MESSAGE, f"request {message.kind}, which was not negotiated")
        return None

    def _ring(self, index: int) -> Ring:
        if index >= len(self.rings):
            raise DeviceFaultError(Fault.BAD_QUEUE, f"there is no queue {index}")
        return self.rings[index]

    def _accept_features(self, message: Message) -> None:
        offered = _FEATURES if message.kind == Kind.SET_FEATURES else _PROTOCOL_FEATURES
        extra = vhost_user.u64(message) & ~offered
        if extra:
            raise DeviceFaultError(Fault.BAD_MESSAGE, f"features {extra:#x} were not offered")

    def _read_configuration(self, message: Message) -> bytes:
        offset, size = vhost_user.config_range(message)
        if size > _LARGEST_CONFIGURATION:
            raise DeviceFaultError(Fault.BAD_MESSAGE, f"{size} bytes of configuration were asked for")
        return message.payload[:12] + self._configuration[offset : offset + size].ljust(size, b"\0")

    def _set_memory(self, message: Message) -> None:
        memory = GuestMemory(vhost_user.memory_table(message), message.descriptors)
        running = [index for index, ring in enumerate(self.rings) if ring.queue is not None]
        for index in running:
            self._halt(index)
        if self._memory is not None:
            self._memory.close()
        self._memory = memory
        for index in running:
            self._start(index)

    def _set_descriptor(self, message: Message) -> None:
        value = vhost_user.u64(message)
        index = value & 0xFF
        ring = self._ring(index)
        if bool(value & vhost_user.NO_DESCRIPTOR) == bool(message.descriptors):
            raise DeviceFaultError(Fault.BAD_MESSAGE, f"queue {index}: {len(message.descriptors)} eventfds")
        descriptor = message.descriptors.pop() if message.descriptors else -1
        if message.kind == Kind.SET_VRING_CALL:
            _close(ring.call)
            ring.call = descriptor
            return
        self._halt(index)
        _close(ring.kick)
        ring.kick = descriptor
        if descriptor >= 0:
            os.set_blocking(descriptor, False)
        self._start(index)

    def _start(self, index: int) -> None:
        """Let a queue run once everything for it is there: memory, size, addresses, eventfd, and it is enabled."""
        ring = self.rings[index]
        ready = ring.enabled and ring.kick >= 0 and ring.addresses is not None and self._memory is not None
        if not ready:
            self._halt(index)
        elif ring.queue is None:
            assert self._memory is not None
            assert ring.addresses is not None
            ring.queue = VirtQueue(self._memory, ring.size, ring.addresses, ring.base, writable=index == RECEIVE)
            self._changed(index)

    def _stop(self, message: Message) -> bytes:
        index, _ = vhost_user.vring_state(message)
        ring = self._ring(index)
        self._halt(index)
        ring.enabled = False
        return struct.pack("<II", index, ring.base)

    def _halt(self, index: int) -> None:
        ring = self.rings[index]
        if ring.queue is not None:
            ring.base = ring.queue.base
            ring.queue.close()
            ring.queue = None
            self._changed(index)

    def close(self) -> None:
        """Stop the queues, unmap the memory, close the eventfds."""
        for index, ring in enumerate(self.rings):
            self._halt(index)
            _close(ring.kick)
            _close(ring.call)
            ring.kick = ring.call = -1
        if self._memory is not None:
            self._memory.close()
            self._memory = None


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)
