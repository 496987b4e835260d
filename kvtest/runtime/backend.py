# SPDX-License-Identifier: Apache-2.0
"""What a pod needs of whoever runs its shims: kvtest itself, or containerd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from attrs import field, frozen

from kvtest.deadline import Deadline
from kvtest.errors import KvtestError
from kvtest.ownership import MountNamespace
from kvtest.runtime.installation import Installation
from kvtest.runtime.shim import ShimProcess
from kvtest.runtime.tasks import ExitStatus, Streams, Tasks

NAMESPACE = "kvtest"


class Driver(StrEnum):
    """Who runs the shims."""

    DIRECT = "direct"
    CONTAINERD = "containerd"


@frozen
class Plan:
    """A container that is to be created.

    Args:
        name: Its ID.
        spec: Its specification.
        mount: The mount of its root file system: type, source and options.
        streams: The streams of its first process.
    """

    name: str
    spec: Mapping[str, Any]
    mount: Mapping[str, Any]
    streams: Streams = field(eq=False)

    @property
    def terminal(self) -> bool:
        """Whether it has a terminal."""
        return bool(self.spec["process"]["terminal"])


@frozen
class Surroundings:
    """What a pod is given.

    Args:
        pod: Its ID.
        installation: The runtime.
        directory: A directory of its own.
        mounts: The mount namespace that its shims run in; ours if ``None``.
    """

    pod: str
    installation: Installation
    directory: Path
    mounts: MountNamespace | None = None

    def owned_paths(self, container: str) -> list[str]:
        """Return the patterns of what a container may have on the host."""
        return self._filled_in(self.installation.profile.owns, container)

    @property
    def logs(self) -> list[str]:
        """The patterns of the files in which the runtime tells what it does."""
        return self._filled_in(self.installation.profile.logs, "*")

    def _filled_in(self, patterns: Sequence[str], container: str) -> list[str]:
        return [
            pattern.format(namespace=NAMESPACE, pod=self.pod, container=container, run=self.directory)
            for pattern in patterns
        ]


class Backend(Protocol):
    """Runs the shims of one pod.

    Attributes:
        cleaned: How ``delete`` went for each container whose shim was lost, as far as that is known.
        stale_sockets: Sockets of shims that were left, of those whose shim was lost.
    """

    cleaned: dict[str, ExitStatus | KvtestError]
    stale_sockets: list[Path]

    @property
    def shim(self) -> ShimProcess | None:
        """The shim; ``None`` before the first container where it comes with that."""

    def open(self, deadline: Deadline) -> None:
        """Do what comes before the first container."""

    def create(self, plan: Plan, deadline: Deadline) -> int:
        """Create a container; return its process ID."""

    def tasks(self, name: str) -> Tasks:
        """Return whom to ask about a container."""

    def removed(self, name: str, deadline: Deadline) -> None:
        """Take a container that was deleted out of the books."""

    @property
    def logs(self) -> list[Path]:
        """What whoever runs the shims, and the shims, have logged: files that may exist."""

    @property
    def address(self) -> Path:
        """The socket of the shim."""

    def bundle(self, name: str) -> Path:
        """Return the bundle of a container."""

    def forget_lost(self, name: str) -> None:
        """Take a container out of the books that went with its shim."""

    def delete(self, name: str) -> ExitStatus:
        """Have the shim's program remove what is left of a container."""

    def end(self, deadline: Deadline) -> None:
        """End what is left when there is no container any more, and wait for what is under way."""

    def close(self) -> None:
        """Give back what is ours."""
