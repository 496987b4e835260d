# SPDX-License-Identifier: Apache-2.0
"""Open descriptors of this process, and vsock addresses that it and its descendants keep reserved."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator

from kvtest.census.interpreter import helpers
from kvtest.census.thing import Kind, Thing

_VHOST_VSOCK = "/dev/vhost-vsock"


def descriptors() -> Iterator[Thing]:
    """Yield our own open descriptors, but for those of the interpreter's helpers."""
    theirs = helpers().descriptors
    for number, target in _open_in("self"):
        if number not in theirs:
            yield Thing(Kind.DESCRIPTOR, (number, target), f"{number} of kvtest: {target}")


def explained(thing: Thing) -> str:
    """Return what an open descriptor is, in more words than is worth finding out for each: of a socket its address."""
    number, target = thing.identity
    if not str(target).startswith("socket:"):
        return thing.text
    with contextlib.suppress(OSError, ValueError), socket.socket(fileno=os.dup(int(number))) as found:
        family = socket.AddressFamily(found.family).name
        names = [str(name) for name in (found.getsockname(), _peer(found)) if name]
        return f"{number} of kvtest: {target}, {family} {' to '.join(names) or 'without an address'}"
    return thing.text


def _peer(found: socket.socket) -> object:
    try:
        return found.getpeername()
    except OSError:
        return None


def reserved_cids(pids: Iterable[int]) -> Iterator[Thing]:
    """Yield the reservations of vsock addresses: one lasts as long as the descriptor that made it.

    Args:
        pids: The processes to look at.
    """
    for pid in pids:
        for number, target in _open_in(str(pid)):
            if target == _VHOST_VSOCK:
                yield Thing(Kind.CID, (pid, number), f"reserved by descriptor {number} of process {pid}")


def _open_in(process: str) -> Iterator[tuple[int, str]]:
    directory = f"/proc/{process}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            with contextlib.suppress(OSError):  # closed meanwhile, as the one that was just read from
                yield int(name), os.readlink(f"{directory}/{name}")
