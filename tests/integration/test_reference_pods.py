# SPDX-License-Identifier: Apache-2.0
"""What a pod of the reference runtime has room for."""

from __future__ import annotations

import pytest

from kvtest.census import Ledger, Marks
from kvtest.errors import RPCError
from kvtest.harness import GuestFactory
from kvtest.runtime import Pods, RuntimeUnderTest
from kvtest.runtime.installation import find
from kvtest.runtime.reference.machine import DISKS
from kvtest.runtime.reference.preparation import prepared
from kvtest.settings import Settings
from kvtest.vm.qmp import start_monitors
from tests.integration.test_runtime import needs_root

PATIENCE = 60.0


@needs_root
def test_there_is_room_for_another_container_when_one_is_gone(settings: Settings, factory: GuestFactory) -> None:
    start_monitors()
    with prepared(find(settings), factory) as installation:
        runtime = RuntimeUnderTest(installation, Ledger(Marks()), settings.run_directory)
        pods = Pods(runtime)
        try:
            pod = pods.start(within=PATIENCE)
            running = [pod.run(["sleep", "1000"], within=PATIENCE) for _ in range(DISKS)]
            with pytest.raises(RPCError, match=f"room for {DISKS} containers"):
                pod.create(["true"], within=PATIENCE)
            running[1].kill()
            running[1].wait(PATIENCE)
            running[1].delete()
            # Those that were made after it had a copy of its mounts, and they go on.
            assert pod.run(["true"], within=PATIENCE).wait(PATIENCE).status == 0
        finally:
            pods.end()
            pods.release()
            runtime.close()
