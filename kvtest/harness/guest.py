# SPDX-License-Identifier: Apache-2.0
"""A running guest, as suites see it."""

from __future__ import annotations

import json

from kvtest.control import GuestControl
from kvtest.harness.running import HEALTH_SECONDS, RunningMachine
from kvtest.vm import VM, State


class Guest(RunningMachine):
    """A guest: its machine, its control daemon and its channels.

    What :class:`kvtest.control.GuestControl` can do can be asked of the guest itself: ``guest.run(["uname", "-r"])``.

    Args:
        vm: The machine, ready.
    """

    inhabitant = "control daemon"

    def __init__(self, vm: VM) -> None:
        super().__init__(vm, vm.release)
        self.control: GuestControl = vm.control
        # The most used of the control daemon's abilities.
        self.run = self.control.run
        self.start = self.control.start
        self.call = self.control.call
        self.serve = self.control.serve
        self.read_file = self.control.read_file
        self.write_file = self.control.write_file

    def state(self, patience: float) -> str:
        """Return what the control daemon is busy with; see :meth:`RunningMachine.state`."""
        return json.dumps(self.control.state(patience), indent=2)

    def check(self) -> None:
        """Ask the control daemon for an answer."""
        self.control.ping(HEALTH_SECONDS)

    @property
    def connection_lost(self) -> bool:
        """Whether the control channel has ended."""
        return self.control.lost is not None

    def tidy(self) -> None:
        """End what was started in it; one that is dead has nothing left."""
        if self.vm.state is State.READY and self.control.lost is None:
            self.control.tidy()
