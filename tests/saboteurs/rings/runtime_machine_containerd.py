# SPDX-License-Identifier: Apache-2.0
"""Virtual machines that die or hang, under containerd: the reference shim, changed in its own processes."""

from __future__ import annotations

from pathlib import Path

from tests.saboteurs import machines
from tests.saboteurs.registry import Fault

OPTIONS = ("--runtime", str(Path(__file__).parents[1] / "reference.toml"), "--census-timeout", "2", "--pods", "own")

NO_ANSWER = "for the answer to containerd: Wait"

FAULTS = [
    Fault(
        "test_machine::test_everybody*containerd-SIGKILL]",
        machines.tells_that_all_went_well,
        "status 255, and told were {",
    ),
    Fault("test_machine::test_everybody*containerd-SIGTERM]", machines.does_not_notice_an_end, NO_ANSWER),
    Fault("test_machine::test_calls*containerd*", machines.forgets_processes_beside_the_first, NO_ANSWER),
    Fault("test_machine::test_an_exit_status*containerd*", machines.forgets_exit_statuses, "assert 255 == 9"),
    Fault("test_machine::test_a_machine_that_hangs*containerd]", machines.does_not_ask_how_it_is, NO_ANSWER),
    Fault("test_machine::test_a_machine_that_stands*containerd*", machines.has_no_patience, "has answered"),
    Fault("test_machine::test_nothing*containerd*", machines.leaves_a_mount, ": tmpfs of left"),
    Fault("test_machine::test_everything*containerd*", machines.leaves_a_process, "sleep 1000"),
    Fault("test_machine::test_the_id*containerd*", machines.stays_with_a_lost_machine, "machine is gone"),
    Fault("test_machine::test_the_machines*containerd*", machines.kills_other_machines, "the output ended"),
]
