# SPDX-License-Identifier: Apache-2.0
"""The runtime ring: runc's shim with something around it, or between it and its clients."""

from __future__ import annotations

from pathlib import Path

from tests.saboteurs import calls, containerd, containers, life, shims
from tests.saboteurs.registry import Fault

OPTIONS = ("--runtime", str(Path(__file__).parents[1] / "runtime.toml"), "--census-timeout", "2", "--pods", "own")

FAULTS = [
    # Life cycle
    Fault("test_life_cycle::test_a_shim_tells*direct*", shims.tells_an_address_of_nobody, "does not listen"),
    Fault("test_life_cycle::test_each_step*direct*", calls.is_always_running, "Status.RUNNING"),
    Fault("test_life_cycle::test_each_step*direct*", life.forgets_when_it_ended, "None", also=True),
    Fault("test_life_cycle::test_nothing_runs*direct*", life.runs_at_once, "DID NOT RAISE"),
    Fault("test_life_cycle::test_a_shim_ends*direct*", calls.ignores_shutdown, "for the shim, process"),
    Fault("test_life_cycle::test_a_shim_ends*direct*", containers.has_another_host_name, "assert b'another", also=True),
    Fault("test_life_cycle::test_nothing_stays*direct-created]", shims.keeps_a_cgroup, "cgroup"),
    Fault("test_life_cycle::test_nothing_stays*direct-ended]", shims.keeps_the_state, "path /run/containerd/runc"),
    Fault("test_life_cycle::test_nothing_stays*direct-killed]", shims.keeps_a_socket, "unix-socket"),
    Fault("test_life_cycle::test_the_exit_status*direct*", calls.tells_another_status, "assert "),
    Fault("test_life_cycle::test_a_signal_is_told*direct*", calls.tells_the_bare_signal, "assert "),
    Fault("test_life_cycle::test_everybody_who_waits*direct*", calls.tells_the_first_only, "255"),
    Fault("test_life_cycle::test_processes_end*direct*", life.forgets_what_ends_with_its_container, "gone with"),
    Fault("test_life_cycle::test_a_signal_can*direct*", calls.always_kills, "assert 137 == 5"),
    Fault("test_life_cycle::test_a_signal_for*direct*", containers.signals_the_first_only, "assert b"),
    Fault("test_life_cycle::test_a_paused*direct*", calls.does_not_pause, "DID NOT RAISE"),
    Fault("test_life_cycle::test_a_paused*direct*", containers.pauses_the_first_only, "DID NOT RAISE", also=True),
    Fault("test_life_cycle::test_a_pause*direct*", calls.pauses_what_has_ended, "DID NOT RAISE"),
    Fault("test_life_cycle::test_the_processes*direct*", calls.hides_a_process, "assert {"),
    Fault("test_life_cycle::test_a_pod_goes*direct*", shims.ends_with_any_container, "the shim has ended"),
    Fault("test_life_cycle::test_a_pod_goes*direct*", calls.has_a_shim_for_each_container, "of its own", also=True),
    # Refusals
    Fault("test_refusals::test_a_running_container*direct*", calls.deletes_what_runs, "DID NOT RAISE"),
    Fault("test_refusals::test_what_has_happened*direct*", life.does_everything_again, "DID NOT RAISE"),
    Fault("test_refusals::test_of_two*direct*", life.does_everything_again, "2 of two who asked at once were served"),
    Fault("test_refusals::test_an_id_in_use*direct*", life.does_everything_again, "DID NOT RAISE"),
    Fault("test_refusals::test_what_does_not_exist*direct*", calls.calls_everything_unknown, "assert 2 =="),
    Fault("test_refusals::test_a_container_that_does*direct*", calls.calls_everything_unknown, "assert {"),
    # Streams
    Fault("test_streams::test_output_and_errors*direct*", shims.mixes_output_and_errors, "assert b"),
    Fault("test_streams::test_output_arrives_whole*direct-0]", shims.adds_to_the_output, "assert 4 == 0"),
    Fault("test_streams::test_output_arrives_whole*direct*", shims.flips_a_byte_of_the_output, "assert"),
    Fault("test_streams::test_output_of*direct*", shims.flips_a_byte_of_the_output, "not what was expected"),
    Fault("test_streams::test_input*direct-first]", shims.flips_a_byte_of_the_input, "not what was expected"),
    Fault("test_streams::test_input*direct-beside]", calls.never_ends_the_input, "for the end of the output"),
    Fault("test_streams::test_a_process_can*direct*", shims.passes_on_what_no_terminal_writes, "assert b"),
    Fault("test_streams::test_a_terminal_learns*direct*", calls.swaps_rows_and_columns, "not what was expected"),
    # Limits
    Fault("test_limits::test_what_a_container_uses*direct*", calls.has_no_stats, "Metrics"),
    Fault("test_limits::test_what_a_container_uses*direct*", containers.tells_the_first_usage, "assert (", also=True),
    Fault("test_limits::test_limits_are*direct*", containers.limits_only_processes, "assert ["),
    Fault("test_limits::test_limits_are*direct*", containers.lifts_no_limit, "== [None, None, None]", also=True),
    Fault("test_limits::test_limits_are*direct*", containers.limits_only_memory, "None, None]", also=True),
    Fault("test_limits::test_a_limit*direct*", calls.keeps_the_old_limits, "assert 0 != 0"),
    Fault("test_limits::test_a_container*direct*", shims.keeps_the_want_of_memory_to_itself, "for the event TaskOOM"),
    # Events
    Fault("test_events::test_each_step*direct*", shims.publishes_the_start_twice, "assert ['TaskCreate'"),
    Fault("test_events::test_each_step*direct*", life.publishes_another_time, "assert [", also=True),
    Fault("test_events::test_processes*direct*", shims.loses_an_event, "assert ["),
    Fault("test_events::test_pause*direct*", shims.publishes_the_pause_twice, "assert 2 == 1"),
    Fault("test_events::test_processes*direct*", life.publishes_another_process, "assert [1,", also=True),
    Fault("test_events::test_pause*direct*", life.publishes_under_another_topic, "other/topic", also=True),
    Fault("test_events::test_pause*direct*", life.publishes_in_another_namespace, "elsewhere", also=True),
    Fault(
        "test_events::test_a_container*direct*", calls.waits_for_its_events_to_be_taken, "for the answer to the shim"
    ),
    # Many at once
    Fault("test_clients::test_processes_have*direct*", shims.mixes_streams, "not what was expected"),
    Fault("test_clients::test_conversations*direct*", shims.mixes_streams, "assert b"),
    Fault("test_clients::test_the_end_of*direct*", calls.ends_with_any_process, "Status.STOPPED"),
    Fault("test_clients::test_a_program*direct*", calls.starts_what_does_not_exist, "DID NOT RAISE"),
    Fault("test_clients::test_the_id*direct*", calls.never_frees_an_id, "it was used before"),
    Fault("test_clients::test_who_waits*direct*", calls.serves_one_call_at_a_time, "for the answer to the shim"),
    Fault("test_clients::test_a_shim_has*direct*", calls.serves_one_call_at_a_time, "for the answer to the shim"),
    Fault("test_clients::test_a_client_that*direct*", shims.dies_with_a_client, "the connection ended"),
    Fault("test_clients::test_pods_live*direct*", shims.publishes_to_everybody, "assert {"),
    # Failure
    Fault("test_failure::test_everything_goes_with_the_shim*direct-SIGKILL]", shims.leaves_a_cgroup, "cgroup"),
    Fault("test_failure::test_everything_goes_with_the_shim*direct-SIGTERM]", shims.leaves_the_state, "path /run"),
    Fault(
        "test_failure::test_everything_goes_with_the_shim*direct-SIGTERM]",
        shims.has_its_containers_end_for_it,
        "not all its containers",
        also=True,
    ),
    Fault("test_failure::test_everything_goes_with_a_shim*direct*", shims.leaves_a_process, "sleep 1000"),
    Fault("test_failure::test_everything_goes_when*in_a_deletion*direct*", shims.hangs_in_delete, "left behind"),
    Fault("test_failure::test_the_end_is*direct*", shims.deletes_with_another_status, "exit status 0 and not 137"),
    Fault("test_failure::test_the_socket*direct*", shims.leaves_its_socket, "assert ["),
    Fault("test_failure::test_a_second*direct*", shims.deletes_once, "'delete' ended (exit status 1)"),
    Fault("test_failure::test_an_id*direct*", shims.leaves_the_state, "already exists"),
    Fault("test_failure::test_other_pods*direct*", shims.kills_its_neighbours, "Broken pipe"),
    Fault("test_failure::test_calls_under_way*direct*", calls.keeps_calls_waiting, "for the answer to the shim"),
    Fault("test_failure::test_the_death*direct*", calls.does_not_notice_a_death, "for the answer to the shim"),
    Fault("test_failure::test_a_stopped_shim*direct*", calls.forgets_what_came_meanwhile, "for the answer to the shim"),
    Fault("test_failure::test_everything_goes_when*on_the_way*poststart]", shims.leaves_a_mount, ": tmpfs of left"),
    # Under containerd
    Fault("test_failure::test_everything_goes_with_the_shim*containerd-SIGKILL]", shims.deletes_nothing, "left behind"),
    Fault("test_failure::test_everything_goes_with_the_shim*containerd-SIGTERM]", shims.leaves_a_process, "sleep 1000"),
    Fault(
        "test_failure::test_the_end_is*containerd-SIGKILL]",
        shims.deletes_with_another_status,
        "exit status 0 and not 137",
    ),
    Fault("test_recovery::test_a_container_goes*", containerd.dies_with_containerd, "Broken pipe"),
    Fault("test_recovery::test_a_container_is_found*[running-*", containerd.dies_with_containerd, "not found"),
    Fault("test_recovery::test_an_exit_status*", containerd.dies_with_containerd, "Broken pipe"),
    Fault("test_recovery::test_what_has_died*[running-*", shims.deletes_nothing, "left behind"),
]
