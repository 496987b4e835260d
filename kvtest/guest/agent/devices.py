# SPDX-License-Identifier: Apache-2.0
"""Disks that are plugged into the running guest.

As in Kata's agent API, a disk is told by the PCI path of its device: the numbers of the root port and of the device
behind it, in hexadecimal with a slash between them (kata-containers, src/agent, storages of the driver "blk").
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections.abc import Callable, Sequence

from kvtest.guest.reactor import Reactor

BLOCK = "blk"
_BUS = "/sys/bus/pci/devices"
_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1


class Devices:
    """Waits for disks.

    Args:
        reactor: Tells of the kernel's announcements.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_KOBJECT_UEVENT)
        # Bound before the first look: what is announced from now on is not missed.
        self._events.bind((0, _KERNEL_GROUP))
        self._events.setblocking(False)
        self._waiting: list[tuple[Sequence[str], Callable[[], None]]] = []
        reactor.watch(self._events.fileno(), selectors.EVENT_READ, self._announced)

    def when_there(self, paths: Sequence[str], then: Callable[[], None]) -> None:
        """Call a function as soon as all of some disks are there.

        Args:
            paths: Their PCI paths.
            then: The function; it has to find out itself whether somebody still waits for it.
        """
        self._waiting.append((paths, then))
        self._look()

    def _announced(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._events.recv(1 << 16):
                pass
        self._look()

    def _look(self) -> None:
        there = [entry for entry in self._waiting if all(block_device(path) is not None for path in entry[0])]
        for entry in there:
            self._waiting.remove(entry)
            entry[1]()


def block_device(path: str) -> str | None:
    """Return the block device at a PCI path, if it is there.

    Args:
        path: Such as ``10/00``.
    """
    port, _, slot = path.partition("/")
    directory = f"{_BUS}/0000:00:{port}.0"
    with contextlib.suppress(OSError, ValueError):
        for function in os.listdir(directory):
            if function.endswith(f":{slot}.0"):
                for virtio in os.listdir(f"{directory}/{function}"):
                    if virtio.startswith("virtio"):
                        (name,) = os.listdir(f"{directory}/{function}/{virtio}/block")
                        return f"/dev/{name}" if os.path.exists(f"/dev/{name}") else None
    return None
