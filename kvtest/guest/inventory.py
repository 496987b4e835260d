# SPDX-License-Identifier: Apache-2.0
"""What a guest's kernel tells about itself: sockets, modules, log."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_VSOCK_STATES = {1: "established", 2: "connecting", 4: "closing", 7: "closed", 10: "listening"}
_DMESG_RECORD = 8192


def modules() -> list[str]:
    """Return the names of loaded modules."""
    with open("/proc/modules", encoding="ascii") as stream:
        return sorted(line.split()[0] for line in stream)


def process(pid: int) -> dict[str, Any]:
    """Return what a process is, and what it waits in (proc(5))."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            command = stream.read().replace(b"\0", b" ").decode(errors="replace").strip()
        with open(f"/proc/{pid}/stat", "rb") as stream:
            state = stream.read().rpartition(b") ")[2][:1].decode()
        with open(f"/proc/{pid}/wchan", encoding="ascii") as stream:
            waits_in = stream.read()
    except OSError:
        return {"pid": pid, "state": "gone"}
    return {"pid": pid, "state": state, "command": command, "waits_in": waits_in}


def kernel_log() -> list[str]:
    """Return the kernel's log, a line per record, each with its seconds since boot (kernel ABI/testing/dev-kmsg)."""
    lines: list[str] = []
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                record = os.read(log, _DMESG_RECORD)
            except BlockingIOError:
                return lines
            except BrokenPipeError:  # overwritten while we read: the next read goes on after it
                continue
            head, _, text = record.decode(errors="replace").partition(";")
            microseconds = int(head.split(",")[2])
            lines.append(f"[{microseconds / 1e6:12.6f}] {text.splitlines()[0]}")
    finally:
        os.close(log)


def vsock_sockets() -> list[dict[str, Any]]:
    """Return the vsock sockets, from sock_diag(7) with the structures of linux/vm_sockets_diag.h.

    Raises:
        OSError: The kernel has no vsock_diag.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as connection:
        # family, protocol, pad, states (all), inode, show, cookie
        request = struct.pack("=BBHIIIII", socket.AF_VSOCK, 0, 0, 0xFFFFFFFF, 0, 0, 0, 0)
        header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
        connection.send(header + request)
        found: list[dict[str, Any]] = []
        while True:
            data = connection.recv(1 << 16)
            while data:
                length, kind, _flags, _sequence, _port = struct.unpack_from("=IHHII", data)
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR:
                    (number,) = struct.unpack_from("=i", data, 16)
                    raise OSError(-number, f"the kernel lists no vsock sockets: {os.strerror(-number)}")
                found.append(_vsock_socket(data[16:length]))
                data = data[(length + 3) & ~3 :]


def _vsock_socket(message: bytes) -> dict[str, Any]:
    _family, _type, state, _shutdown, cid, port, peer_cid, peer_port, inode = struct.unpack_from("=BBBBIIIII", message)
    return {
        "state": _VSOCK_STATES.get(state, f"state {state}"),
        "local": [cid, port],
        "peer": [peer_cid, peer_port],
        "inode": inode,
    }


def unix_sockets() -> list[dict[str, Any]]:
    """Return the Unix sockets that have a path (proc(5), /proc/net/unix)."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as stream:
        rows = [line.split(maxsplit=7) for line in stream.readlines()[1:]]
    listening = 0x10000  # __SO_ACCEPTCON
    return [
        {
            "state": "listening" if int(row[3], 16) & listening else "open",
            "path": row[7].rstrip("\n"),
            "inode": int(row[6]),
        }
        for row in rows
        if len(row) == 8
    ]
