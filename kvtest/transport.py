# SPDX-License-Identifier: Apache-2.0
"""The channels between host and guest that can be under test."""

from __future__ import annotations

from enum import StrEnum


class Transport(StrEnum):
    """One kind of channel, by the name that users write."""

    VHOST_USER_VSOCK = "vhost-user-vsock"
    """virtio-vsock, its device served by kvtest itself over the vhost-user protocol."""
    VIRTIO_SERIAL = "virtio-serial"
    """Named ports of a virtio console device, Unix sockets on the host."""
