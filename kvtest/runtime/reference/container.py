# SPDX-License-Identifier: Apache-2.0
"""One container of a pod: its disk, its processes, and its place in the guest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kvtest.deadline import Deadline
from kvtest.errors import ConnectionLostError, KvtestError, RPCError
from kvtest.rpc.status import Code
from kvtest.runtime.agent_spec import WRITABLE_OVERLAY
from kvtest.runtime.reference import guest_spec, rootfs
from kvtest.runtime.reference.arguments import specification
from kvtest.runtime.reference.binds import Binds, is_bind
from kvtest.runtime.reference.machine import Machine
from kvtest.runtime.reference.process import DRAIN_SECONDS, Process, Status, Stdio
from kvtest.runtime.reference.state import STATE

_GUEST = "/run/kvtest/containers"
_KILL = 9


class Container:
    """A container.

    Args:
        machine: The pod's machine.
        name: Its ID.
        bundle: Its bundle.
        stdio: Where the streams of its first process go.
        exited: Called when a process of it has ended.
    """

    def __init__(
        self,
        machine: Machine,
        name: str,
        bundle: Path,
        stdio: Stdio,
        exited: Callable[[Container, Process], None],
    ) -> None:
        self.name = name
        self.bundle = bundle
        self.created = False
        self.removing = False
        self._machine = machine
        self._exited = exited
        self._disk: int | None = None
        self.processes = {"": self._process("", stdio)}

    @property
    def first(self) -> Process:
        """Its first process."""
        return self.processes[""]

    def _process(self, name: str, stdio: Stdio) -> Process:
        return Process(self._machine, self.name, name, stdio, self._ended)

    def _ended(self, process: Process) -> None:
        self._exited(self, process)
        if process is self.first:
            for other in list(self.processes.values()):
                if other.status is Status.CREATED:
                    with other.changing:
                        other.give_up()

    def process(self, name: str) -> Process:
        """Return a process.

        Raises:
            RPCError: There is none of that name.
        """
        try:
            return self.processes[name]
        except KeyError:
            raise RPCError(Code.NOT_FOUND, f"{self.name} has no process {name!r}") from None

    # --- Life

    def create(self, mounts: Sequence[Any]) -> None:
        """Pack its root file system, put it on a disk of the guest, and have the agent make the container.

        What its configuration binds from the host is copied before.

        Args:
            mounts: What its root file system is mounted from.

        Raises:
            KvtestError: One of these failed; nothing of it is left.
        """
        self.first.open()
        try:
            self._make(mounts)
        except BaseException:
            self.first.close()
            raise
        self.first.attach()

    def _make(self, mounts: Sequence[Any]) -> None:
        configuration = specification(self.bundle)
        state = self.bundle / STATE
        state.mkdir(mode=0o700, exist_ok=True)
        image = state / "rootfs.erofs"
        rootfs.pack(self.bundle / guest_spec.root_path(configuration), mounts, image)
        mounted = guest_spec.mounts(configuration)
        if any(map(is_bind, mounted)):  # copied by the agent, so that the machine has come up while we packed
            configuration["mounts"] = Binds(self.bundle).replaced(mounted, self._machine.agent)
        self._disk = self._machine.insert(image)
        image.unlink()
        place = f"{_GUEST}/{self.name}"
        overlay = [f"lowerdir={place}/lower", WRITABLE_OVERLAY]
        try:
            self._machine.agent.call(
                "CreateContainer",
                container_id=self.name,
                exec_id="",
                OCI=guest_spec.specification(configuration, self.name, f"{place}/root"),
                storages=[
                    {
                        "driver": "blk",
                        "source": self._machine.path(self._disk),
                        "fstype": rootfs.KIND,
                        "options": ["ro"],
                        "mount_point": f"{place}/lower",
                    },
                    {
                        "driver": "overlayfs",
                        "source": "none",
                        "fstype": "overlay",
                        "options": overlay,
                        "mount_point": f"{place}/root",
                    },
                ],
            )
        except KvtestError:
            self._give_disk_up()
            raise

    def start(self, tell: Callable[[], None]) -> None:
        """Let its first process run.

        Args:
            tell: Called when it does, and before its end is waited for: what is told of that comes after this.
        """
        with self.first.changing:
            self.first.require(Status.CREATED)
            self._machine.agent.call("StartContainer", container_id=self.name)
            tell()
            self.first.started()

    def add(self, name: str, found: object, stdio: Stdio) -> None:
        """Take a process that is to run beside the first one.

        Raises:
            RPCError: There is one of that name, the container has ended, or what is to run is none.
        """
        self.first.require(Status.RUNNING, Status.PAUSED)
        process = self._process(name, stdio)
        process.specification = {**guest_spec.process(found), "Terminal": stdio.terminal}
        if self.processes.setdefault(name, process) is not process:
            raise RPCError(Code.ALREADY_EXISTS, f"{self.name} has a process {name!r}")

    def execute(self, process: Process, tell: Callable[[], None]) -> None:
        """Start a process that was added.

        Args:
            process: The process.
            tell: Called when it runs; see :meth:`start`.
        """
        with process.changing:
            process.require(Status.CREATED)
            try:
                process.open()
                self._machine.agent.call(
                    "ExecProcess", container_id=self.name, exec_id=process.name, process=process.specification
                )
            except ConnectionLostError:
                raise  # it ends as all do with their machine
            except RPCError:
                process.ended(127)
                raise
            process.attach()
            tell()
            process.started()

    def signal(self, process: Process, number: int) -> None:
        """Send a process a signal.

        Raises:
            RPCError: The process has ended.
        """
        with process.changing:
            process.require_life()
            if process.status is Status.CREATED and process.name:
                process.ended(128 + number)
                return
            self._machine.agent.call("SignalProcess", container_id=self.name, exec_id=process.name, signal=number)
            if process.status is Status.CREATED and number == _KILL:  # crun's own process waited in its place
                process.started()

    def signal_all(self, number: int) -> None:
        """Send each of its processes a signal.

        Raises:
            RPCError: It has ended.
        """
        if number != _KILL:  # which the agent sends to all of them
            self.first.require_life()
            for process in list(self.processes.values()):  # before the first one, with which they end
                if process.name and process.status is Status.RUNNING:
                    with contextlib.suppress(RPCError):  # it has ended meanwhile
                        self.signal(process, number)
        self.signal(self.first, number)

    def remove(self) -> None:
        """Take it away; what the machine had of it is gone with a machine that is."""
        deadline = Deadline(DRAIN_SECONDS)
        for process in list(self.processes.values()):
            process.give_up()
            if process.ran:
                process.drain(deadline)
        with contextlib.suppress(KvtestError):
            self._machine.agent.call("RemoveContainer", container_id=self.name)
        for process in list(self.processes.values()):
            process.close()
        self._give_disk_up()

    def lost(self, status: int) -> None:
        """Take the end of its machine."""
        for process in reversed(list(self.processes.values())):  # the first one at last, with which all end
            process.ended(status)

    def _give_disk_up(self) -> None:
        if self._disk is not None:
            with contextlib.suppress(KvtestError):  # a machine that is gone has none
                self._machine.eject(self._disk)
            self._disk = None
