# SPDX-License-Identifier: Apache-2.0
"""A runtime, and what its pods have in common."""

from __future__ import annotations

import contextlib
from pathlib import Path

from kvtest.census import Ledger
from kvtest.errors import StateError
from kvtest.ownership import MountNamespace, RunDirectory
from kvtest.runtime import rootfs
from kvtest.runtime.backend import Driver
from kvtest.runtime.containerd import Containerd
from kvtest.runtime.containerd_process import BUNDLES, ContainerdProcess, find_containerd
from kvtest.runtime.installation import Installation, root_is_mount_point
from kvtest.runtime.pods import Pods
from kvtest.runtime.shared_pods import SharedPods

_CONTAINERD = "containerd"
_MOUNTS = "the mount namespace of shims"
# Made and destroyed in a row: as many as are done in some 10 s.
_PODS = 100
_MACHINES = 10
_FILES = "the root file system of containers"


class RuntimeUnderTest:
    """A runtime, and what all pods of it share.

    Args:
        installation: The runtime.
        ledger: What exists by right.
        base: Where to make run directories; chosen if ``None``.
        pods_in_a_row: How many pods are a number in which a leak shows; chosen if ``None``.
    """

    def __init__(
        self,
        installation: Installation,
        ledger: Ledger,
        base: Path | None = None,
        pods_in_a_row: int | None = None,
    ) -> None:
        self.installation = installation
        self.ledger = ledger
        self.base = base
        self.pods_in_a_row = pods_in_a_row or (_PODS if installation.profile.vm is None else _MACHINES)
        self._directory: RunDirectory | None = None
        self._containerd: tuple[Containerd, RunDirectory] | None = None
        self._mounts: MountNamespace | None = None
        self.shared = SharedPods(lambda driver: Pods(self, driver), ledger)

    @property
    def mounts(self) -> MountNamespace | None:
        """The mount namespace of shims and of our containerd: what they mount is not seen on the host.

        There is none in a chroot: whoever enters a mount namespace has the root of that one (setns(2)).
        """
        if self._mounts is None and root_is_mount_point():
            with self.ledger.lasting(_MOUNTS):
                self._mounts = MountNamespace()
        return self._mounts

    @property
    def rootfs(self) -> Path:
        """The root file system of containers, made when first asked for."""
        if self._directory is None:
            with self.ledger.lasting(_FILES):
                self._directory = RunDirectory(self.base)
                rootfs.make(self._directory.path / "rootfs")
        return self._directory.path / "rootfs"

    @property
    def containerd(self) -> Containerd:
        """A containerd of our own, started when first asked for, and again when it was killed.

        Raises:
            ContainerdError: It did not start.
            MissingToolError: There is none.
        """
        if self._containerd is None:
            mounts = self.mounts
            with self.ledger.lasting(_CONTAINERD), contextlib.ExitStack() as opened:
                directory = opened.enter_context(RunDirectory(self.base))
                directory.own_sockets_in(f"{BUNDLES}/*/*/address")
                process = ContainerdProcess(directory.path, find_containerd(), self.installation, mounts)
                containerd = Containerd(process)
                self._containerd = (containerd, directory)
                opened.pop_all()
        elif not self._containerd[0].running:
            self.start_containerd_again()
        return self._containerd[0]

    def kill_containerd(self) -> None:
        """Kill our containerd; its shims are not asked."""
        self.shared.give_up(Driver.CONTAINERD)
        self.containerd.kill()

    def start_containerd_again(self) -> None:
        """Start our containerd again after it was killed.

        Raises:
            ContainerdError: It did not start.
            StateError: There was none.
        """
        if self._containerd is None:
            raise StateError("there was no containerd that could be started again")
        with self.ledger.lasting(_CONTAINERD):
            self._containerd[0].start()

    def close(self) -> None:
        """Remove what was shared."""
        self.shared.close()
        if self._containerd is not None:
            containerd, directory = self._containerd
            self._containerd = None
            containerd.close()
            directory.close()
            self.ledger.release(_CONTAINERD)
        if self._directory is not None:
            self._directory.close()
            self._directory = None
            self.ledger.release(_FILES)
        if self._mounts is not None:
            self._mounts.close()
            self._mounts = None
            self.ledger.release(_MOUNTS)
