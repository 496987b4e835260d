# SPDX-License-Identifier: Apache-2.0
"""Ways to break the vsock device: each is a context in which the device has one fault."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

from kvtest.vsock.device import switch as switch_module
from kvtest.vsock.device.connection import Connection, State
from kvtest.vsock.device.stream import Stream
from kvtest.vsock.device.switch import Switch
from kvtest.vsock.packet import HOST_CID, Operation, Packet, Shutdown
from tests.saboteurs.registry import breaks


@breaks("VSOCK-DATA-001")
@contextlib.contextmanager
def flips_a_byte_to_the_guest() -> Iterator[None]:
    """The last byte of the first piece of data arrives changed."""
    views: list[memoryview] = []
    add_space, sent = switch_module._add_space, Connection.sent

    def remember(buffers: list[memoryview], limit: int, into: list[memoryview]) -> int:
        size = add_space(buffers, limit, into)
        views[:] = into
        return size

    def flip(self: Connection, size: int) -> None:
        sent(self, size)
        last = min(size, len(views[0])) - 1
        views[0][last] ^= 1

    with patch.object(switch_module, "_add_space", remember), patch.object(Connection, "sent", flip):
        yield


@breaks("VSOCK-DATA-002", "VSOCK-CLIENTS-002")
@contextlib.contextmanager
def flips_a_byte_to_the_host() -> Iterator[None]:
    """The last byte of every packet arrives changed."""
    data = Stream.data

    def flip(self: Stream, packet: Packet, pieces: Sequence[memoryview]) -> list[Packet]:
        joined = bytearray(b"".join(pieces))
        joined[-1] ^= 1
        return data(self, packet, [memoryview(joined)])

    with patch.object(Stream, "data", flip):
        yield


@breaks("VSOCK-CLIENTS-002", "VSOCK-DIRECTION-002")
@contextlib.contextmanager
def forwards_a_stale_buffer() -> Iterator[None]:
    """A packet's bytes are those of the packet before it, whichever stream that was of."""
    data = Stream.data
    stale = bytearray(1 << 16)

    def forward(self: Stream, packet: Packet, pieces: Sequence[memoryview]) -> list[Packet]:
        joined = b"".join(pieces)
        before = bytes(stale[: len(joined)])
        stale[: len(joined)] = joined
        return data(self, packet, [memoryview(before)])

    with patch.object(Stream, "data", forward):
        yield


@breaks("VSOCK-DATA-002")
@contextlib.contextmanager
def loses_a_packet_to_the_host() -> Iterator[None]:
    """One packet in the middle of a stream is not forwarded."""
    write = Stream._write
    numbers = itertools.count()

    def lose(self: Stream, data: bytes | bytearray | memoryview, *, counted: bool = True) -> list[Packet]:
        return [] if counted and next(numbers) == 3 else write(self, data, counted=counted)

    with patch.object(Stream, "_write", lose):
        yield


@breaks("VSOCK-DATA-001")
@contextlib.contextmanager
def treats_data_as_text() -> Iterator[None]:
    """A carriage return becomes a line feed, as on a terminal."""
    data = Stream.data

    def translate(self: Stream, packet: Packet, pieces: Sequence[memoryview]) -> list[Packet]:
        return data(self, packet, [memoryview(b"".join(pieces).replace(b"\r", b"\n"))])

    with patch.object(Stream, "data", translate):
        yield


@breaks("VSOCK-CLIENTS-001")
@contextlib.contextmanager
def serves_one_client_at_a_time() -> Iterator[None]:
    """A host process that comes while another is connected is turned away."""
    read_greeting = Switch._read_greeting

    def turn_away(self: Switch, client: Any) -> None:
        if self.streams:
            self._watch(client.fileno(), -1)
            del self._greeting[client.fileno()]
            client.close()
        else:
            read_greeting(self, client)

    with patch.object(Switch, "_read_greeting", turn_away):
        yield


@breaks("VSOCK-CLIENTS-003")
@contextlib.contextmanager
def lets_one_slow_host_process_stall_all() -> Iterator[None]:
    """While a host process has not taken its data, no packet of the guest is taken."""
    transmit = Switch._transmit

    def stall(self: Switch) -> None:
        if not any(stream._unsent for stream in self.streams.values()):
            transmit(self)

    with patch.object(Switch, "_transmit", stall):
        yield


@breaks("VSOCK-CLIENTS-003")
@contextlib.contextmanager
def lets_one_slow_guest_socket_stall_all() -> Iterator[None]:
    """While one guest socket has no room, no host process is read."""
    wanted: property = vars(Stream)["wanted"]
    streams: list[Stream] = []
    add = Switch._add

    def remember(self: Switch, stream: Stream) -> None:
        streams.append(stream)
        add(self, stream)

    def stall(self: Stream) -> int | None:
        stalled = any(other.connection.state is State.ESTABLISHED and not other.connection.credit for other in streams)
        return 0 if stalled else wanted.__get__(self)

    with patch.object(Switch, "_add", remember), patch.object(Stream, "wanted", property(stall)):
        yield


@breaks("VSOCK-CLOSE-001")
@contextlib.contextmanager
def keeps_the_guest_waiting_for_the_end() -> Iterator[None]:
    """A host process's end is not passed on."""
    ended = Connection.host_ended

    def hide(self: Connection, directions: Shutdown) -> None:
        ended(self, directions)

    with patch.object(Connection, "host_ended", hide):
        yield


@breaks("VSOCK-CLOSE-005")
@contextlib.contextmanager
def takes_what_nobody_reads() -> Iterator[None]:
    """A host process that has closed is told to the guest as one that will not send."""
    ended = Connection.host_ended

    def half(self: Connection, directions: Shutdown) -> Packet | None:
        packet = ended(self, Shutdown.SEND)
        self.host_done = Shutdown.BOTH
        return packet

    with patch.object(Connection, "host_ended", half):
        yield


@breaks("VSOCK-CLOSE-002")
@contextlib.contextmanager
def keeps_the_host_waiting_for_the_end() -> Iterator[None]:
    """A guest's end is not passed on."""
    receive = Connection.receive

    def ignore(self: Connection, packet: Packet) -> list[Packet]:
        return [] if packet.operation == Operation.SHUTDOWN else receive(self, packet)

    with patch.object(Connection, "receive", ignore):
        yield


@breaks("VSOCK-CLOSE-003")
@contextlib.contextmanager
def takes_half_a_close_of_the_host_for_a_whole() -> Iterator[None]:
    """A host process that will not send is told to the guest as one that is gone."""
    ended = Connection.host_ended
    with patch.object(Connection, "host_ended", lambda self, _directions: ended(self, Shutdown.BOTH)):
        yield


@breaks("VSOCK-CLOSE-004")
@contextlib.contextmanager
def takes_half_a_close_of_the_guest_for_a_whole() -> Iterator[None]:
    """A guest that will not send is treated as one that is gone."""
    receive = Connection.receive

    def whole(self: Connection, packet: Packet) -> list[Packet]:
        both = packet._replace(flags=Shutdown.BOTH) if packet.operation == Operation.SHUTDOWN else packet
        return receive(self, both)

    with patch.object(Connection, "receive", whole):
        yield


@breaks("VSOCK-CLOSE-002")
@contextlib.contextmanager
def never_frees_a_place() -> Iterator[None]:
    """There is room for 16 connections, and those that have ended count."""
    read_greeting = Switch._read_greeting
    places = itertools.count()

    def turn_away(self: Switch, client: Any) -> None:
        if next(places) < 16:
            read_greeting(self, client)
        else:
            self._watch(client.fileno(), -1)
            del self._greeting[client.fileno()]
            client.close()

    with patch.object(Switch, "_read_greeting", turn_away):
        yield


@breaks("VSOCK-DIRECTION-001")
@contextlib.contextmanager
def refuses_every_host_process() -> Iterator[None]:
    """A host process's ``CONNECT`` is answered by the end."""
    with patch.object(switch_module, "_CONNECT", re.compile(rb"never")):
        yield


@breaks("VSOCK-REFUSE-001", "VSOCK-BACKLOG-001")
@contextlib.contextmanager
def says_ok_too_early() -> Iterator[None]:
    """A host process reads ``OK`` before the guest has answered."""
    add = Switch._add

    def early(self: Switch, stream: Stream) -> None:
        add(self, stream)
        if stream._greet:
            stream._greet = False
            stream.host.send(b"OK 1\n")

    with patch.object(Switch, "_add", early):
        yield


@breaks("VSOCK-HANDSHAKE-001")
@contextlib.contextmanager
def says_ok_after_the_first_bytes() -> Iterator[None]:
    """A host process reads ``OK`` behind what the guest sent first."""
    data = Stream.data

    def late(self: Stream, packet: Packet, pieces: Sequence[memoryview]) -> list[Packet]:
        answers = data(self, packet, pieces)
        self.host.send(b"OK 1\n")
        return answers

    init = Stream.__init__
    with (
        patch.object(Stream, "__init__", lambda self, *args, greet: init(self, *args, greet=False)),
        patch.object(Stream, "data", late),
    ):
        yield


@breaks("VSOCK-HANDSHAKE-001")
@contextlib.contextmanager
def drops_what_follows_connect() -> Iterator[None]:
    """Bytes that came together with ``CONNECT`` are lost."""
    add = Switch._add

    def drop(self: Switch, stream: Stream) -> None:
        with contextlib.suppress(BlockingIOError):
            stream.host.recv(4096)
        add(self, stream)

    with patch.object(Switch, "_add", drop):
        yield


@breaks("VSOCK-DIRECTION-002")
@contextlib.contextmanager
def refuses_the_guest() -> Iterator[None]:
    """No connection of the guest is taken."""
    with patch.object(Switch, "_accept", lambda self, request: self._answers.append(request.reset())):
        yield


@breaks("VSOCK-REFUSE-002")
@contextlib.contextmanager
def leaves_the_guest_without_answer() -> Iterator[None]:
    """A guest that connects where nobody listens is not told."""
    accept = Switch._accept

    def ignore(self: Switch, request: Packet) -> None:
        before = len(self._answers)
        accept(self, request)
        while len(self._answers) > before:
            self._answers.pop()

    with patch.object(Switch, "_accept", ignore):
        yield


@breaks("VSOCK-PORT-001")
@contextlib.contextmanager
def never_asks_again_after_a_refusal() -> Iterator[None]:
    """A port that refused once is taken for closed for ever."""
    refused: set[int] = set()
    receive, add = Connection.receive, Switch._add

    def remember(self: Connection, packet: Packet) -> list[Packet]:
        if packet.operation == Operation.RST and self.state is State.REQUESTED:
            refused.add(self.guest_port)
        return receive(self, packet)

    def refuse(self: Switch, stream: Stream) -> None:
        add(self, stream)
        if stream.connection.guest_port in refused:
            self._forget(stream)

    with patch.object(Connection, "receive", remember), patch.object(Switch, "_add", refuse):
        yield


@breaks("VSOCK-CID-001")
@contextlib.contextmanager
def has_another_address() -> Iterator[None]:
    """Packets of the host come from another CID than the host's."""
    packet, route = Connection.packet, Switch._route

    def from_another(self: Connection, *args: Any, **kwargs: Any) -> Packet:
        return packet(self, *args, **kwargs)._replace(source_cid=5)

    def to_us(self: Switch, packet: Packet, pieces: Sequence[memoryview]) -> None:
        route(self, packet._replace(destination_cid=HOST_CID), pieces)

    with patch.object(Connection, "packet", from_another), patch.object(Switch, "_route", to_us):
        yield


@breaks("VSOCK-LOST-001", "VSOCK-LOST-002")
@contextlib.contextmanager
def keeps_connections_of_a_dead_guest() -> Iterator[None]:
    """The sockets of the host processes stay open when the guest is gone, and when it says that it goes."""
    receive = Connection.receive

    def ignore(self: Connection, packet: Packet) -> list[Packet]:
        return [] if packet.operation in (Operation.SHUTDOWN, Operation.RST) else receive(self, packet)

    with patch.object(Switch, "close_all", lambda self: None), patch.object(Connection, "receive", ignore):
        yield
