# SPDX-License-Identifier: Apache-2.0
"""vsock between host and guest: addresses, host sockets, and our own device."""

from kvtest.vsock.hybrid import Clients, HybridVsock, Listener

__all__ = ["Clients", "HybridVsock", "Listener"]
