# SPDX-License-Identifier: Apache-2.0
"""One stream between a host process and a guest socket, apart from any I/O (virtio 1.2, 5.10.6).

Counters are 32 bits wide and wrap. "Forwarded" is what a receiver has taken out of its buffer: here, what the host
process's socket has accepted.
"""

from __future__ import annotations

from enum import Enum, auto

from kvtest.vsock.packet import HOST_CID, STREAM, Operation, Packet, Shutdown

# What the guest may send before the host process has taken it. Of the order of a socket buffer.
BUFFER = 256 * 1024
_MASK = 0xFFFFFFFF


class State(Enum):
    """Where a connection is in its life."""

    REQUESTED = auto()  # by the host; the guest has not answered
    ESTABLISHED = auto()
    CLOSING = auto()  # the host process is gone; the guest has to confirm with a reset
    CLOSED = auto()


class Connection:
    """A connection.

    Args:
        guest_cid: The guest's address.
        host_port: Port of the host's side.
        guest_port: Port of the guest's side.
        state: ``REQUESTED`` if the host made it, ``ESTABLISHED`` if the guest did.
    """

    def __init__(self, guest_cid: int, host_port: int, guest_port: int, state: State) -> None:
        self.guest_cid = guest_cid
        self.host_port = host_port
        self.guest_port = guest_port
        self.state = state
        self.host_done = Shutdown.NONE  # what we told the guest that the host will no longer do
        self.guest_done = Shutdown.NONE  # what the guest said that it will no longer do
        self._sent = 0
        self._guest_allocation = 0
        self._guest_forwarded = 0
        self._received = 0
        self._forwarded = 0
        self._announced = 0  # of _forwarded, what the guest knows

    @property
    def key(self) -> tuple[int, int]:
        """Its ports, the host's first: what tells it from the others of a guest."""
        return self.host_port, self.guest_port

    # --- To the guest

    def packet(self, operation: Operation, length: int = 0, flags: int = 0) -> Packet:
        """Return a packet to the guest, with our credit in it."""
        self._announced = self._forwarded
        return Packet(
            HOST_CID,
            self.guest_cid,
            self.host_port,
            self.guest_port,
            length,
            STREAM,
            operation,
            flags,
            BUFFER,
            self._forwarded,
        )

    @property
    def credit(self) -> int:
        """Bytes that the guest has room for (5.10.6.3)."""
        return max(0, self._guest_allocation - ((self._sent - self._guest_forwarded) & _MASK))

    @property
    def host_may_send(self) -> bool:
        """Whether what the host process writes is of use to the guest."""
        return (
            self.state is State.ESTABLISHED
            and not self.host_done & Shutdown.SEND
            and not self.guest_done & Shutdown.RECEIVE
        )

    def sent(self, size: int) -> None:
        """Note that data went to the guest."""
        self._sent = (self._sent + size) & _MASK

    def host_ended(self, directions: Shutdown) -> Packet | None:
        """Note that the host process will no longer send, or receive; return what tells the guest, if anything."""
        new = directions & ~self.host_done
        self.host_done |= directions
        if self.host_done is Shutdown.BOTH and self.state is State.ESTABLISHED:
            self.state = State.CLOSING
        return self.packet(Operation.SHUTDOWN, flags=self.host_done) if new else None

    # --- From the guest

    def take_credit(self, packet: Packet) -> None:
        """Note the guest's room, which every packet of a stream tells."""
        self._guest_allocation = packet.buffer_allocation
        self._guest_forwarded = packet.forward_count

    def receive(self, packet: Packet) -> list[Packet]:
        """Take a packet other than RW and return the answers; :attr:`state` tells the rest."""
        self.take_credit(packet)
        operation = packet.operation
        if operation == Operation.RST:
            self.state = State.CLOSED
        elif operation == Operation.RESPONSE:
            if self.state is not State.REQUESTED:
                return self._refuse(packet)
            self.state = State.ESTABLISHED
        elif operation == Operation.SHUTDOWN:
            self.guest_done |= Shutdown(packet.flags & Shutdown.BOTH)
        elif operation == Operation.CREDIT_REQUEST:
            return [self.packet(Operation.CREDIT_UPDATE)]
        elif operation != Operation.CREDIT_UPDATE:  # REQUEST of a stream that exists, or none of the operations
            return self._refuse(packet)
        return []

    def receive_data(self, packet: Packet) -> bool:
        """Take the header of an RW packet; return whether its data is to be forwarded to the host process.

        Data that the guest had no credit for ends the connection.
        """
        self.take_credit(packet)
        if self.state is State.CLOSING or self.host_done & Shutdown.RECEIVE:
            return False  # sent before the guest heard of our end
        used = (self._received - self._forwarded) & _MASK
        if self.state is not State.ESTABLISHED or used + packet.length > BUFFER or self.guest_done & Shutdown.SEND:
            self.state = State.CLOSED
            return False
        self._received = (self._received + packet.length) & _MASK
        return True

    def forward(self, size: int) -> Packet | None:
        """Note that the host process took data; return a credit update when the guest should hear of it."""
        self._forwarded = (self._forwarded + size) & _MASK
        if ((self._forwarded - self._announced) & _MASK) >= BUFFER // 4:
            return self.packet(Operation.CREDIT_UPDATE)
        return None

    def _refuse(self, packet: Packet) -> list[Packet]:
        self.state = State.CLOSED
        return [packet.reset()]
