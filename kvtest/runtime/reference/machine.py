# SPDX-License-Identifier: Apache-2.0
"""A pod's virtual machine: a clone with the reference agent, and disks that are plugged into it."""

from __future__ import annotations

import json
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

import attrs

from kvtest.deadline import Deadline
from kvtest.errors import HostError, KvtestError
from kvtest.harness import Guest, GuestFactory, GuestRequest
from kvtest.harness.factory import AGENT_RECIPE
from kvtest.ownership import write_atomically
from kvtest.runtime.agent import Agent, AgentEndpoint
from kvtest.runtime.agent_address import HybridAddress
from kvtest.runtime.reference.arguments import start_time
from kvtest.runtime.reference.state import MACHINE_FILE
from kvtest.settings import Settings, load
from kvtest.transport import Transport
from kvtest.vm import Configuration
from kvtest.vm.q35 import disk_path, plug_disk

_PORT = 1024
_SLOTS = 8
_PATIENCE = 20.0
# A hung machine is one that does not answer in this time; it is asked this often.
_ANSWER_SECONDS = 6.0
_INTERVAL_SECONDS = 2.0


def factory_of_pods(settings: Settings, artifacts: Path, label: str) -> GuestFactory:
    """Return what makes pods' machines: with the reference agent beside our control daemon, whichever is under test.

    Args:
        settings: The settings.
        artifacts: Gets a directory for each machine.
        label: The beginning of their names.
    """
    return GuestFactory(attrs.evolve(settings, agent=None, agent_start=None), artifacts, label)


def configuration(factory: GuestFactory) -> Configuration:
    """Return what a pod's machine is made of.

    Args:
        factory: Makes guests.
    """
    found = factory.configuration(GuestRequest(image=AGENT_RECIPE), vsock=True)
    return attrs.evolve(found, disk_slots=_SLOTS, transports=frozenset((Transport.VHOST_USER_VSOCK,)))


class Machine:
    """The machine of a pod; starting it begins at once, and :attr:`agent` waits for it.

    Args:
        pod: ID of the pod, which is in the name of the machine.
        artifacts: Gets its console and logs.
        lost: Called once, with the reason, when it has died or does not answer any more.
    """

    def __init__(self, pod: str, artifacts: Path, lost: Callable[[str], None]) -> None:
        self._pod = pod
        self._artifacts = artifacts
        self._lost = lost
        self._guest: Guest | None = None
        self._agent: Agent | None = None
        self._problem: KvtestError | None = None
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._look = threading.Event()  # set when there is a reason not to wait until the agent is asked the next time
        self._told = threading.Lock()
        self._slots = set(range(_SLOTS))
        self._slots_lock = threading.Lock()
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
    def guest(self) -> Guest:
        """The guest; raises as :attr:`agent` does."""
        _ = self.agent
        assert self._guest is not None
        return self._guest

    @property
    def pid(self) -> int:
        """The process ID of QEMU."""
        return self.guest.vm.process.pid

    def _start(self) -> None:
        try:
            settings = load({}, os.environ, {}, Path("/")).settings
            factory = factory_of_pods(settings, self._artifacts, f"pod-{self._pod}")
            self._guest = factory.start(configuration(factory))
            pid = self._guest.vm.process.pid
            write_atomically(self._artifacts / MACHINE_FILE, json.dumps({"pid": pid, "start": start_time(pid)}))
            endpoint = AgentEndpoint(HybridAddress(str(self._guest.vm.hybrid_path), _PORT))
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
        poll.register(self.guest.vm.process.pidfd, select.POLLIN)
        poll.poll()
        self._tell(self.guest.died or "the machine ended")

    def _watch_health(self) -> None:
        while True:
            self._look.wait(_INTERVAL_SECONDS)
            if self._closing.is_set():
                return
            try:
                self.agent.check(_ANSWER_SECONDS)
            except KvtestError as error:
                self._tell(self.guest.died or f"the agent does not answer: {error.message}")
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
        if self._guest is not None:
            self._guest.close()

    # --- Disks

    def plug(self, image: Path) -> int:
        """Plug a disk in.

        Args:
            image: Its content.

        Returns:
            Its slot.

        Raises:
            HostError: All slots are taken.
        """
        with self._slots_lock:
            if not self._slots:
                raise HostError(f"a pod of this runtime has room for {_SLOTS} containers")
            slot = min(self._slots)
            self._slots.remove(slot)
        for command, arguments in plug_disk(slot, image):
            self.guest.vm.monitor.execute(command, arguments)
        return slot

    def unplug(self, slot: int) -> None:
        """Pull a disk out; its slot is free again once the guest has let go."""
        monitor, name = self.guest.vm.monitor, f"disk-{slot}"
        seen = len(monitor.events)
        monitor.execute("device_del", {"id": name})

        monitor.wait_event("DEVICE_DELETED", since=seen, deadline=_PATIENCE, device=name)
        monitor.execute("blockdev-del", {"node-name": name})
        with self._slots_lock:
            self._slots.add(slot)

    @staticmethod
    def path(slot: int) -> str:
        """Return the PCI path of the disk in a slot."""
        return disk_path(slot)
