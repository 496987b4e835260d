# SPDX-License-Identifier: Apache-2.0
"""What the host's kernel passes between guests and itself over vsock, seen at an interface of the kind ``vsockmon``.

The kernel copies every packet of its vhost-vsock to such an interface (linux/vsockmon.h, drivers/net/vsockmon.c). It is
made in a network namespace of its own: nobody else sees it, and it goes with this process.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from kvtest.errors import HostError
from kvtest.vsock.namespace import NetworkNamespace

_NAME = "vsockmon0"
_CURE = "modprobe vsockmon, as root, on a kernel with CONFIG_VSOCKMON"
# Requests to make an interface (rtnetlink(7), linux/if_link.h).
_NETLINK_ROUTE = 0
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE = 0x1, 0x4, 0x400
_RTM_NEWLINK = 16
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND = 3, 18, 1
_IFF_UP = 1
# A ring that the kernel fills by itself (packet(7), linux/if_packet.h): a test is not slowed down by a reader.
_SOL_PACKET = 263
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION = 5, 6, 10
_TPACKET_V2 = 1
_TP_STATUS_USER = 1
_FRAME_HEADER = struct.Struct("=IIIHHII")  # status, length, captured, where it begins, network, seconds, nanoseconds
_FRAME = 512  # bytes: of each packet its two headers, and some 350 of what it carries
_BLOCK = 1 << 16
_FRAMES = 1 << 14
_ETH_P_ALL = 3
# struct af_vsockmon_hdr: source and destination CID, both ports, operation, transport, length of the next header
_CIDS = struct.Struct("<QQ")
_PCAP = struct.Struct("<IHHiIII")
_PCAP_MAGIC = 0xA1B23C4D  # times in nanoseconds
_PCAP_RECORD = struct.Struct("<IIII")
_LINKTYPE_VSOCK = 271  # of the list of link-layer header types of libpcap


class Packet(NamedTuple):
    """A packet as it was seen.

    Args:
        seconds: When, since 1970.
        nanoseconds: The rest of that.
        length: Its length with all that it carries.
        data: Its beginning.
    """

    seconds: int
    nanoseconds: int
    length: int
    data: bytes

    def concerns(self, cids: Collection[int]) -> bool:
        """Whether one of its ends is one of these addresses."""
        return any(cid in cids for cid in _CIDS.unpack_from(self.data))


class VsockMonitor:
    """Sees what the host's kernel passes on.

    Raises:
        HostError: There is no way to see it here.
    """

    def __init__(self) -> None:
        self._namespace = NetworkNamespace()
        try:
            self._namespace.run(_make_interface)
        except OSError as error:
            self.close()
            reason = error.strerror or str(error)
            raise HostError(f"could not make an interface of the kind vsockmon: {reason}", hint=_CURE) from error

    def record(self) -> Recording:
        """Begin to record.

        Raises:
            HostError: There is no memory for it.
        """
        return self._namespace.run(Recording)

    def close(self) -> None:
        """Take it away."""
        self._namespace.close()


class Recording:
    """The first packets that come after it was begun, as many as there is room for.

    Raises:
        HostError: It is not allowed, or there is no memory for it.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as opened:
            try:
                self._socket = opened.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
                self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
                size = _FRAME * _FRAMES
                ring = struct.pack("=IIII", _BLOCK, size // _BLOCK, _FRAME, _FRAMES)
                self._socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, ring)
                self._ring = opened.enter_context(mmap.mmap(self._socket.fileno(), size))
                self._socket.bind((_NAME, _ETH_P_ALL))
            except OSError as error:
                raise HostError(f"could not record vsock packets: {error.strerror}") from error
            self._opened = opened.pop_all()

    def packets(self) -> Iterator[Packet]:
        """Yield what has been seen up to now."""
        for number in range(_FRAMES):
            start = number * _FRAME
            status, length, captured, offset, _, seconds, nanoseconds = _FRAME_HEADER.unpack_from(self._ring, start)
            if not status & _TP_STATUS_USER:
                return
            yield Packet(seconds, nanoseconds, length, self._ring[start + offset : start + offset + captured])

    def lost(self) -> int:
        """Return how many packets have come, since this was last asked, for which there was no room."""
        answer = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        return int(struct.unpack("=II", answer)[1])

    def write(self, path: Path, cids: Collection[int]) -> None:
        """Write what concerns some guests into a file that Wireshark and tcpdump read.

        Args:
            path: The file.
            cids: The addresses of the guests.
        """
        with path.open("wb") as stream:
            stream.write(_PCAP.pack(_PCAP_MAGIC, 2, 4, 0, 0, _FRAME, _LINKTYPE_VSOCK))
            for packet in self.packets():
                if packet.concerns(cids):
                    times = packet.seconds, packet.nanoseconds
                    stream.write(_PCAP_RECORD.pack(*times, len(packet.data), packet.length) + packet.data)

    def close(self) -> None:
        """End it."""
        self._opened.close()


def _make_interface() -> None:
    kind = _attribute(_IFLA_LINKINFO, _attribute(_IFLA_INFO_KIND, b"vsockmon\0"))
    # family, type, index, flags, which flags are meant
    interface = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, _IFF_UP, _IFF_UP)
    body = interface + _attribute(_IFLA_IFNAME, f"{_NAME}\0".encode()) + kind
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as connection:
        connection.send(struct.pack("=IHHII", 16 + len(body), _RTM_NEWLINK, flags, 1, 0) + body)
        (status,) = struct.unpack_from("=i", connection.recv(1 << 16), 16)
    if status != 0:
        raise OSError(-status, os.strerror(-status))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
