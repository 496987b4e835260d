# SPDX-License-Identifier: Apache-2.0
"""Pods that are harmed from inside, under containerd: the reference shim, changed in its own processes."""

from __future__ import annotations

from pathlib import Path

from tests.saboteurs import machines
from tests.saboteurs.registry import Fault

OPTIONS = ("--runtime", str(Path(__file__).parents[1] / "reference.toml"), "--census-timeout", "2", "--pods", "own")

NO_ANSWER = "for the answer to containerd: Wait"
EVERYBODY = "test_guest::test_everybody*containerd"
NOTHING = "test_guest::test_nothing*containerd"

FAULTS = [
    Fault(f"{EVERYBODY}-agent-killed]", machines.publishes_an_end_twice, "published 2 times"),
    Fault(f"{EVERYBODY}-panic]", machines.publishes_an_end_twice, "published 2 times"),
    Fault(f"{EVERYBODY}-power-off]", machines.tells_that_all_went_well, "status 255, and told were {"),
    Fault("test_guest::test_calls*containerd*", machines.does_not_ask_how_it_is, NO_ANSWER),
    Fault(f"{NOTHING}-agent-killed]", machines.leaves_the_machine, "the virtual machine goes on"),
    Fault(f"{NOTHING}-panic]", machines.leaves_a_mount, ": tmpfs of left"),
    Fault("test_guest::test_the_id*containerd*", machines.stays_with_a_lost_machine, "machine is gone"),
    Fault("test_guest::test_other_pods*containerd*", machines.kills_other_machines, "the output ended"),
]
