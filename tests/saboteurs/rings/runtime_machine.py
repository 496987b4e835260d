# SPDX-License-Identifier: Apache-2.0
"""What happens when a virtual machine dies or hangs: the reference shim, changed in its own processes."""

from __future__ import annotations

from pathlib import Path

from tests.saboteurs import machines
from tests.saboteurs.registry import Fault

OPTIONS = ("--runtime", str(Path(__file__).parents[1] / "reference.toml"), "--census-timeout", "2", "--pods", "own")

NO_ANSWER = "for the answer to the shim"

FAULTS = [
    Fault("test_machine::test_everybody*direct-SIGKILL]", machines.tells_one_of_two_waiters, NO_ANSWER),
    Fault(
        "test_machine::test_everybody*direct-SIGTERM]",
        machines.publishes_ends_of_first_processes_only,
        "published 0 times",
    ),
    Fault(
        "test_machine::test_everybody*direct-SIGKILL]",
        machines.publishes_ends_of_another_process,
        "was published as that of process 1",
        also=True,
    ),
    Fault("test_machine::test_calls*direct*", machines.tells_of_what_was_not_created, "what was not created"),
    Fault("test_machine::test_an_exit_status*direct*", machines.forgets_exit_statuses, "assert 255 == 9"),
    Fault("test_machine::test_a_machine_that_hangs_is*direct]", machines.does_not_ask_how_it_is, NO_ANSWER),
    Fault(
        "test_machine::test_a_machine_that_hangs_is*direct]",
        machines.tells_of_no_end_but_its_own,
        "exit status 0 and not 137",
        also=True,
    ),
    Fault(
        "test_machine::test_a_machine_that_hangs_is*direct]", machines.waits_for_its_turn_to_ask, NO_ANSWER, also=True
    ),
    Fault("test_machine::test_a_machine*way*direct]", machines.waits_for_its_machine_to_come_up, NO_ANSWER, also=True),
    Fault("test_machine::test_a_machine_that_stands*direct*", machines.has_no_patience, "has answered"),
    Fault("test_machine::test_nothing*direct*", machines.leaves_a_mount, ": tmpfs of left"),
    Fault("test_machine::test_everything*direct*", machines.leaves_a_process, "sleep 1000"),
    Fault("test_machine::test_the_id*direct*", machines.stays_with_a_lost_machine, "machine is gone"),
    Fault("test_machine::test_the_machines*direct*", machines.kills_other_machines, "the output ended"),
    Fault("test_machine::test_a_second*direct*", machines.deletes_only_what_is_there, "'delete' ended (exit status 1)"),
]
