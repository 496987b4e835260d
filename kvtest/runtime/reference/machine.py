# SPDX-License-Identifier: Apache-2.0
"""A pod's virtual machine: a clone with the reference agent, and disks for its containers."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from kvtest.deadline import Deadline
from kvtest.errors import HostError, KvtestError
from kvtest.runtime.agent import Agent, AgentEndpoint
from kvtest.runtime.agent_address import in_machine
from kvtest.runtime.reference.handover import handed_over
from kvtest.runtime.reference.pod import PodDirectory
from kvtest.runtime.reference.standstill import ended_at_standstill
from kvtest.vm.machine import VM
from kvtest.vm.q35 import DISK_SIZE, disk_path

_PORT = 1024
DISKS = 8
"""How many containers a pod has room for."""
_PATIENCE = 20.0
# A hung machine is one that does not answer in this time; it is asked this often.
_ANSWER_SECONDS = 6.0
_INTERVAL_SECONDS = 1.0


def _launch(artifacts: Path, name: str) -> VM:
    """Start the machine: as it was handed over, or as this process finds out."""
    told = handed_over(os.environ)
    if told is None:
        from kvtest.runtime.reference import preparation

        told = preparation.find_out(artifacts)
    vm = VM(told[0], artifacts / name, name, told[1])
    vm.launch()
    return vm


class Machine:
    """The machine of a pod; starting it begins at once, and :attr:`agent` waits for it.

    Args:
        pod: ID of the pod, which is in the name of the machine.
        directory: The pod's directory, which gets its console and logs.
        lost: Called once, with the reason, when it has died or does not answer any more.
    """

    def __init__(self, pod: str, directory: PodDirectory, lost: Callable[[str], None]) -> None:
        self._pod = pod
        self._directory = directory
        self._lost = lost
        self._vm: VM | None = None
        self._agent: Agent | None = None
        self._problem: KvtestError | None = None
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._look = threading.Event()  # set when there is a reason not to wait until the agent is asked the next time
        self._told = threading.Lock()
        # Whichever was given back last is given out last: a guest lets go of a disk a moment after it has said so.
        self._free_disks = deque(range(DISKS))
        threading.Thread(target=self._start, name="machine", daemon=True).start()

    @property
    def agent(self) -> Agent:
        """The connection to its agent.

        Raises:
            KvtestError: It did not start.
        """
        self._ready.wait()
        if self._agent is None:
            raise self._problem or HostError("the pod's machine is closed")
        return self._agent

    @property
    def vm(self) -> VM:
        """The virtual machine; raises as :attr:`agent` does."""
        _ = self.agent
        assert self._vm is not None
        return self._vm

    @property
    def pid(self) -> int:
        """The process ID of QEMU."""
        return self.vm.process.pid

    def _start(self) -> None:
        try:
            self._vm = _launch(self._directory.path, f"pod-{self._pod}-1")
            self._directory.note_machine(self._vm.process.pid)
            with ended_at_standstill(self._vm.process, _ANSWER_SECONDS):
                self._vm.boot()
                endpoint = AgentEndpoint(in_machine(self._vm, _PORT))
                self._agent = endpoint.connect(Deadline(_PATIENCE), self._look.set)
            for watch in (self._watch_process, self._watch_health):
                threading.Thread(target=watch, name=watch.__name__, daemon=True).start()
        except KvtestError as error:
            self._problem = error
        finally:
            self._ready.set()

    # --- Its end

    def _watch_process(self) -> None:
        poll = select.poll()
        poll.register(self.vm.process.pidfd, select.POLLIN)
        poll.poll()
        self._tell(self.vm.died or "the machine ended")

    def _watch_health(self) -> None:
        while True:
            self._look.wait(_INTERVAL_SECONDS)
            if self._closing.is_set():
                return
            try:
                self.agent.check(_ANSWER_SECONDS)
            except KvtestError as error:
                said = "does not say how it is" if error.refused else "does not answer"
                self._tell(self.vm.died or f"the agent {said}: {error.message}")
                return

    def _tell(self, reason: str) -> None:
        if self._told.acquire(blocking=False) and not self._closing.is_set():
            self.close()
            self._lost(reason)

    def close(self) -> None:
        """End it, and remove what it has on the host."""
        self._closing.set()
        self._look.set()
        self._ready.wait()
        if self._agent is not None:
            self._agent.close()
        if self._vm is not None:
            self._vm.close()

    # --- Disks

    def insert(self, image: Path) -> int:
        """Have an image be the content of a disk.

        Args:
            image: The image; its file is not needed any more.

        Returns:
            The number of the disk.

        Raises:
            HostError: All disks are taken, or there is no room for it.
        """
        try:
            disk = self._free_disks.popleft()
        except IndexError:
            raise HostError(f"a pod of this runtime has room for {DISKS} containers") from None
        try:
            with image.open("rb") as source, self.vm.disk(disk).open("r+b") as target:
                shutil.copyfileobj(source, target)
        except OSError as error:
            self.eject(disk)
            raise HostError(f"could not write the disk of a container: {error.strerror}") from error
        return disk

    def eject(self, disk: int) -> None:
        """Forget the content of a disk that the guest has let go of, and have it free for another."""
        with contextlib.suppress(OSError):  # gone with its machine
            for size in (0, DISK_SIZE):
                os.truncate(self.vm.disk(disk), size)
        self._free_disks.append(disk)

    @staticmethod
    def path(disk: int) -> str:
        """Return the PCI path of a disk."""
        return disk_path(disk)
