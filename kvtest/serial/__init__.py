# SPDX-License-Identifier: Apache-2.0
"""virtio-serial ports: a Unix socket on the host, ``/dev/virtio-ports/NAME`` in the guest.

QEMU listens on the host socket and serves one connection at a time (qemu(1), "chardev socket"); whoever comes second
waits in the listen queue.
"""

from __future__ import annotations

import socket
from pathlib import Path

from attrs import frozen

from kvtest.errors import TransportError


@frozen
class SerialPort:
    """One virtio-serial port.

    Args:
        name: Its name in the guest.
        path: The Unix socket on the host.
        device: The ID of its device in QEMU.
    """

    name: str
    path: Path
    device: str

    @property
    def guest_path(self) -> str:
        """The device file in the guest."""
        return f"/dev/virtio-ports/{self.name}"

    def connect(self, timeout: float = 10.0) -> socket.socket:
        """Connect to the host side.

        A connection that is made is not yet served: QEMU serves the first, the others wait.

        Args:
            timeout: Seconds for the connection and, until changed, for each operation on it.

        Raises:
            TransportError: Nothing listens: QEMU has ended.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(str(self.path))
        except OSError as error:
            connection.close()
            raise TransportError(f"could not connect to the serial port {self.name}: {error.strerror}") from error
        return connection
