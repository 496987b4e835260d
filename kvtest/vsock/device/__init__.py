# SPDX-License-Identifier: Apache-2.0
"""Our own vhost-user vsock device: one thread, no dependency, trusts nothing that a guest writes.

Layers, each knowing only those before it: guest memory, virtqueues, the vhost-user protocol; connections, which know
no I/O; the device, which joins them in one event loop.
"""

from kvtest.vsock.device.device import VsockDevice
from kvtest.vsock.device.faults import DeviceFaultError, Fault

__all__ = ["DeviceFaultError", "Fault", "VsockDevice"]
