# SPDX-License-Identifier: Apache-2.0
"""The channels between host and guest that can be under test."""

from __future__ import annotations

from enum import StrEnum


class Transport(StrEnum):
    """One kind of channel, by the name that users write."""

    VHOST_USER_VSOCK = "vhost-user-vsock"
    """virtio-vsock, its device served by kvtest itself over the vhost-user protocol."""
    VHOST_VSOCK = "vhost-vsock"
    """virtio-vsock, its device in the host's kernel."""
    VIRTIO_SERIAL = "virtio-serial"
    """Named ports of a virtio console device, Unix sockets on the host."""


#: The channels that are a guest's vsock; a guest has one of them at most.
VSOCKS = frozenset({Transport.VHOST_USER_VSOCK, Transport.VHOST_VSOCK})
#: What every host can offer.
EVERYWHERE = (Transport.VHOST_USER_VSOCK, Transport.VIRTIO_SERIAL)
