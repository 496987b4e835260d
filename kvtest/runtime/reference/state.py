# SPDX-License-Identifier: Apache-2.0
"""What the processes of a pod's shim leave for each other: names of files, and of the API."""

from __future__ import annotations

#: The shim, as it calls itself.
NAME = "containerd-shim-kvtest-v2"
#: Of a bundle, the directory that is ours.
STATE = "kvtest"
#: In the bundle, the address of the pod's shim (containerd, Runtime v2).
ADDRESS_FILE = "address"

#: The package of the API that a shim serves.
TASK = "containerd.task.v2"
