# SPDX-License-Identifier: Apache-2.0
"""vsock between host and guest: addresses, host sockets, and our own device."""

from kvtest.vsock.host import Clients, Listener, Vsock
from kvtest.vsock.hybrid import HybridVsock
from kvtest.vsock.kernel import KernelVsock

__all__ = ["Clients", "HybridVsock", "KernelVsock", "Listener", "Vsock"]
