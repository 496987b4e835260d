# SPDX-License-Identifier: Apache-2.0
"""One thing that a host has."""

from __future__ import annotations

from enum import StrEnum

from attrs import field, frozen


class Kind(StrEnum):
    """What kinds of things are counted."""

    PROCESS = "process"
    DESCRIPTOR = "descriptor"
    CID = "cid"
    UNIX_SOCKET = "unix-socket"
    VSOCK_SOCKET = "vsock-socket"
    MOUNT = "mount"
    CGROUP = "cgroup"
    NETWORK_NAMESPACE = "network-namespace"
    NETWORK_DEVICE = "network-device"
    RUN_DIRECTORY = "run-directory"
    PATH = "path"
    SHARED_MEMORY = "shared-memory"
    LOOP_DEVICE = "loop-device"


@frozen
class Thing:
    """Something that exists.

    Args:
        kind: What it is.
        identity: What tells it from everything else of its kind, also from a later one of the same name.
        text: What it is for people, such as a command line or a path.
        pid: The process, of a process.
        namespace: The mount namespace that it is in, or has; 0 for our own.
    """

    kind: Kind
    identity: tuple[int | str, ...]
    text: str = field(eq=False)
    pid: int = field(default=0, eq=False)
    namespace: int = field(default=0, eq=False)

    def __lt__(self, other: Thing) -> bool:
        """Sort by kind as they are listed above, so that what tells most comes first."""
        kinds = list(Kind)
        return (kinds.index(self.kind), self.identity) < (kinds.index(other.kind), other.identity)

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"
