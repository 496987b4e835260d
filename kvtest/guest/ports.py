# SPDX-License-Identifier: Apache-2.0
"""Names for virtio-serial ports: what udev does elsewhere."""

from __future__ import annotations

import os
import socket
import time

_CLASS = "/sys/class/virtio-ports"
_LINKS = "/dev/virtio-ports"
_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1
_PATIENCE = 30.0


class Ports:
    """The ports that the kernel has announced; each gets a link below ``/dev/virtio-ports``."""

    def __init__(self) -> None:
        self.events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_KOBJECT_UEVENT)
        # Bound before the first look: what is announced from now on is not missed.
        self.events.bind((0, _KERNEL_GROUP))

    def link(self) -> dict[str, str]:
        """Link what is there; return the links by the ports' names."""
        os.makedirs(_LINKS, exist_ok=True)
        links = {}
        for device in sorted(os.listdir(_CLASS)) if os.path.isdir(_CLASS) else []:
            try:
                with open(f"{_CLASS}/{device}/name", encoding="utf-8") as stream:
                    name = stream.read().strip()
            except FileNotFoundError:  # a console has no name, and a port may go while we look
                continue
            if name and os.path.exists(f"/dev/{device}"):
                links[name] = f"{_LINKS}/{name}"
                if not os.path.islink(links[name]):
                    os.symlink(f"../{device}", links[name])
        return links

    def wait(self, name: str) -> str:
        """Return the path of a port, once it has been announced.

        Raises:
            RuntimeError: It was not, in 30 seconds.
        """
        end = time.monotonic() + _PATIENCE
        while True:
            links = self.link()
            if name in links:
                return links[name]
            self.events.settimeout(max(0.001, end - time.monotonic()))
            try:
                self.events.recv(1 << 16)
            except TimeoutError:
                raise RuntimeError(f"no virtio-serial port {name} appeared, only {sorted(links)}") from None

    def drain(self) -> None:
        """Take the announcements that are waiting."""
        self.events.setblocking(False)
        try:
            while self.events.recv(1 << 16):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Stop listening for announcements."""
        self.events.close()
