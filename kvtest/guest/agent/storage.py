# SPDX-License-Identifier: Apache-2.0
"""Storages of containers: disks that are plugged into the running guest, and overlays on top of them.

As in Kata's agent API, a disk is told by the PCI path of its device: the numbers of the root port and of the device
behind it, in hexadecimal with a slash between them (kata-containers, src/agent, "blk" storages).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections.abc import Callable, Sequence
from typing import Any

from kvtest.errors import RPCError
from kvtest.guest import libc
from kvtest.guest.reactor import Reactor
from kvtest.rpc.status import Code

BLOCK = "blk"
OVERLAY = "overlayfs"
_BUS = "/sys/bus/pci/devices"
_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1
_FAMILY = ("upperdir=", "workdir=")  # directories that an overlay needs, and that nobody else makes

Done = Callable[[str | None], None]


class Storages:
    """Mounts what containers are given, as soon as its devices are there.

    Args:
        reactor: Tells of the kernel's announcements.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_KOBJECT_UEVENT)
        # Bound before the first look: what is announced from now on is not missed.
        self._events.bind((0, _KERNEL_GROUP))
        self._events.setblocking(False)
        self._waiting: list[tuple[str, Callable[[str], None]]] = []
        reactor.watch(self._events.fileno(), selectors.EVENT_READ, self._announced)

    def mount(self, storages: Sequence[Any], done: Done) -> None:
        """Mount storages one after the other.

        Args:
            storages: ``grpc.Storage`` messages.
            done: Called with ``None`` when all are mounted, or with what went wrong.

        Raises:
            RPCError: One of them has a driver that is not known here.
        """
        for storage in storages:
            if storage.driver not in (BLOCK, OVERLAY):
                raise RPCError(Code.INVALID_ARGUMENT, f"there is no storage driver {storage.driver!r}")
        self._mount_first(list(storages), done)

    def _mount_first(self, storages: list[Any], done: Done) -> None:
        if not storages:
            done(None)
            return
        storage, *others = storages

        def mounted(source: str) -> None:
            try:
                _mount(storage, source)
            except OSError as error:
                done(error.strerror or str(error))
            else:
                self._mount_first(others, done)

        if storage.driver == BLOCK:
            self._await(storage.source, mounted)
        else:
            mounted(storage.source or "none")

    def _await(self, path: str, take: Callable[[str], None]) -> None:
        self._waiting.append((path, take))
        self._look()

    def _announced(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._events.recv(1 << 16):
                pass
        self._look()

    def _look(self) -> None:
        found = [(entry, device) for entry in self._waiting if (device := block_device(entry[0])) is not None]
        for entry, device in found:
            self._waiting.remove(entry)
            entry[1](device)


def unmount(storages: Sequence[Any]) -> None:
    """Unmount what :meth:`Storages.mount` has mounted, the last first."""
    for storage in reversed(storages):
        with contextlib.suppress(OSError):
            libc.unmount(storage.mount_point)


def block_device(path: str) -> str | None:
    """Return the block device at a PCI path, if it is there.

    Args:
        path: Such as ``10/00``.
    """
    port, _, slot = path.partition("/")
    directory = f"{_BUS}/0000:00:{port}.0"
    with contextlib.suppress(OSError):
        for function in os.listdir(directory):
            if function.endswith(f":{slot}.0"):
                for virtio in os.listdir(f"{directory}/{function}"):
                    if virtio.startswith("virtio"):
                        (name,) = os.listdir(f"{directory}/{function}/{virtio}/block")
                        return f"/dev/{name}" if os.path.exists(f"/dev/{name}") else None
    return None


def _mount(storage: Any, source: str) -> None:
    for option in storage.options:
        for prefix in _FAMILY:
            if option.startswith(prefix):
                os.makedirs(option.removeprefix(prefix), exist_ok=True)
    os.makedirs(storage.mount_point, exist_ok=True)
    flags = libc.MS_RDONLY if "ro" in storage.options else 0
    data = ",".join(option for option in storage.options if option != "ro")
    libc.mount(source, storage.mount_point, storage.fstype, data, flags)
