# SPDX-License-Identifier: Apache-2.0
"""Sockets that are ours by their address: Unix sockets by their path, vsock sockets by their guest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kvtest.census.marks import Marks
from kvtest.census.thing import Kind, Thing
from kvtest.guest import inventory

_ANY = 0xFFFFFFFF  # VMADDR_CID_ANY, VMADDR_PORT_ANY


def unix_sockets(marks: Marks) -> Iterator[Thing]:
    """Yield the Unix sockets that are bound to a path, or an abstract name, of ours."""
    for found in inventory.unix_sockets():
        if marks.own(found["path"]):
            yield Thing(Kind.UNIX_SOCKET, (found["inode"], found["path"]), found["path"])


def vsock_sockets(marks: Marks) -> Iterator[Thing]:
    """Yield the host's vsock sockets to and from guests of ours, as ``ss --vsock`` lists them.

    They are asked for over netlink, which opens no vsock socket. A kernel without ``vsock_diag`` has nothing to say.
    """
    if not marks.cids:
        return
    with contextlib.suppress(OSError):
        for found in inventory.vsock_sockets():
            ends = (found["local"], found["peer"])
            if found["inode"] == 0:  # no process has it: the kernel waits for the other end's farewell
                continue
            if any(cid in marks.cids for cid, _ in ends):
                text = " to ".join(f"{_name(cid)}:{_name(port)}" for cid, port in ends)
                yield Thing(Kind.VSOCK_SOCKET, (found["inode"], text), text)


def _name(number: int) -> str:
    return "*" if number == _ANY else str(number)
