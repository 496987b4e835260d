# SPDX-License-Identifier: Apache-2.0
"""The agent ring: an agent that is broken on purpose.

``_TABLE`` says for a test what is broken while it runs, and what its failure is to say. A name is that of a function in
``agent_in_guest.py``, which breaks the agent in the guest; anything else breaks what is on the host. What a saboteur
claims to break are the requirements of the tests that it is at work in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from kvtest.runtime.agent import AgentEndpoint
from kvtest.vm import VM, State
from tests.saboteurs import agent_in_guest, device
from tests.saboteurs.plugin import fault_of
from tests.saboteurs.registry import Break, Fault, Saboteur, register
from tests.suites import suite_tests

OPTIONS = ("--agent", str(Path(agent_in_guest.__file__)), "--request-timeout", "12")
SOCKET = "/run/kvtest/saboteur"
BOUND = 5.0  # in place of the requirements' own: what never comes need not be awaited for long


@contextlib.contextmanager
def never_goes_on() -> Iterator[None]:
    """A VM that stands still stays so."""

    def resume(self: VM) -> None:
        self._state = State.READY

    with patch.object(VM, "resume", resume):
        yield


VSOCK = "vhost-user-vsock"
SERIAL = "virtio-serial"

# The test's ID from its file's name on; the saboteur; a part of the failure. A test that is there again meets another
# saboteur in another run.
_TABLE: list[tuple[str, str | Break, str]] = [
    (f"life_cycle::test_a_healthy_agent_says_that_it_serves[{VSOCK}]", "says_not_serving", "'NOT_SERVING' =="),
    (f"life_cycle::test_the_version_is_one[{VSOCK}]", "has_an_old_version", "assert (2, 0) >= (2, 1)"),
    (f"life_cycle::test_the_details_hold_the_version[{VSOCK}]", "has_two_versions", "'3.0.0' == '4.1.0'"),
    (f"life_cycle::test_a_container_lives_and_goes[{VSOCK}]", "keeps_what_is_removed", "DID NOT RAISE"),
    (f"life_cycle::test_nothing_runs_before_the_start[{VSOCK}]", "starts_at_the_creation", "StartContainer"),
    (f"life_cycle::test_a_container_starts_once[{VSOCK}]", "starts_twice", "DID NOT RAISE"),
    (f"life_cycle::test_an_id_is_free_again_after_the_removal[{VSOCK}]", "never_frees_an_id", "was used before"),
    (
        f"life_cycle::test_a_container_that_is_gone_leaves_nothing[{VSOCK}]",
        "leaves_directories_and_a_cgroup",
        "/sys/fs/cgroup/left-leaves",
    ),
    (
        f"life_cycle::test_a_container_that_is_gone_leaves_nothing[{VSOCK}]",
        "leaves_what_could_not_be_created",
        "left by one that could not run: /run/kvtest-root-fails",
    ),
    (
        f"life_cycle::test_a_container_sees_no_files_of_one_of_its_id_before[{VSOCK}]",
        "keeps_what_a_container_wrote",
        "assert [b'written",
    ),
    (f"life_cycle::test_an_id_in_use_is_refused[{VSOCK}]", "creates_twice", "DID NOT RAISE"),
    (f"life_cycle::test_the_removal_of_a_running_container_ends_it[{VSOCK}]", "refuses_to_remove_what_runs", "it runs"),
    (f"life_cycle::test_a_container_without_a_specification_is_refused[{VSOCK}]", "creates_twice", "DID NOT RAISE"),
    (
        f"life_cycle::test_a_program_that_does_not_exist_is_refused[{VSOCK}]",
        "finds_no_fault_with_a_program",
        "DID NOT RAISE",
    ),
    (
        f"life_cycle::test_a_call_for_no_container_is_refused[{VSOCK}-WaitProcess]",
        "knows_every_container",
        "DID NOT RAISE",
    ),
    (f"processes::test_the_exit_status_is_that_of_the_process[{VSOCK}-0]", "adds_one_to_the_status", "assert 1 == 0"),
    (f"processes::test_the_exit_status_tells_the_signal[{VSOCK}-SIGKILL]", "tells_the_bare_signal", "assert 9 == "),
    (f"processes::test_a_signal_reaches_the_handler[{VSOCK}]", "sends_sigkill_always", "assert b'' == b'caught"),
    (f"processes::test_a_kill_of_the_first_process_ends_all[{VSOCK}]", "kills_nobody", "waited"),
    (f"processes::test_a_signal_for_one_process_spares_the_others[{VSOCK}]", "kills_all_for_one", "WriteStdin"),
    (
        f"processes::test_a_signal_for_no_process_is_refused[{VSOCK}]",
        "takes_an_unknown_process_for_the_first",
        "DID NOT RAISE",
    ),
    (f"processes::test_an_exec_has_its_own_streams_and_status[{VSOCK}]", "mixes_the_outputs", "assert b'err mine"),
    (f"processes::test_an_exec_runs_in_the_container[{VSOCK}]", "executes_outside", "assert False"),
    (f"processes::test_an_exec_of_no_program_is_refused[{VSOCK}]", "finds_no_fault_with_an_exec", "DID NOT RAISE"),
    (
        f"processes::test_a_process_is_as_it_was_asked_for[{VSOCK}]",
        "gives_every_process_the_same_privileges",
        "assert {",
    ),
    (f"processes::test_a_container_is_confined_as_it_was_asked_for[{VSOCK}]", "confines_nothing", "assert {"),
    (f"processes::test_containers_do_not_see_each_other[{VSOCK}]", "shares_namespaces", "assert ["),
    (f"processes::test_a_terminal_is_one[{VSOCK}]", "ignores_the_size_of_a_terminal", "assert [b'0', b'0', "),
    (f"processes::test_a_terminal_can_be_resized[{VSOCK}]", "ignores_the_size_of_a_terminal", "assert b'50 132"),
    (f"processes::test_a_terminal_turns_a_character_into_a_signal[{VSOCK}]", "makes_terminals_raw", "waited"),
    (f"streams::test_large_output_arrives_whole[{VSOCK}]", "flips_a_byte", "not what was expected"),
    (f"streams::test_every_value_of_a_byte_passes_both_ways[{VSOCK}]", "flips_a_byte", "not what was expected"),
    (f"streams::test_large_input_arrives_whole[{VSOCK}]", "loses_input", "assert '"),
    (f"streams::test_the_end_of_the_input_is_seen[{VSOCK}]", "never_closes_an_input", "waited"),
    (
        f"streams::test_nothing_is_written_after_the_end_of_the_input[{VSOCK}]",
        "closes_an_input_only_in_name",
        "DID NOT RAISE",
    ),
    (f"streams::test_the_two_outputs_are_apart[{VSOCK}]", "mixes_the_outputs", "assert b'out 1"),
    (f"streams::test_a_read_at_the_end_does_not_wait[{VSOCK}-stdout]", "waits_at_the_end_of_a_stream", "waited"),
    (f"streams::test_output_waits_for_its_reader[{VSOCK}]", "forgets_output_at_the_end", "assert b'' == b'early"),
    (f"streams::test_a_read_takes_no_more_than_it_was_asked_for[{VSOCK}]", "gives_more_than_asked_for", "has ended"),
    (f"streams::test_a_process_that_ends_lets_go_of_its_writers[{VSOCK}]", "forgets_writers_at_the_end", "waited"),
    (f"resources::test_statistics_count_memory_processes_and_time[{VSOCK}]", "counts_nothing", "assert 0 =="),
    (f"resources::test_statistics_are_those_of_the_container[{VSOCK}]", "counts_everybody", "assert ["),
    (f"resources::test_a_paused_container_stands_still_until_it_is_resumed[{VSOCK}]", "never_pauses", "goes on"),
    (f"resources::test_a_paused_container_can_be_removed[{VSOCK}]", "refuses_to_remove_what_is_paused", "it is paused"),
    (f"resources::test_an_update_changes_the_limits[{VSOCK}]", "never_updates", "assert ("),
    (f"resources::test_limits_are_those_that_were_asked_for[{VSOCK}]", "limits_nothing", "assert ['max"),
    (f"resources::test_limits_are_those_that_were_asked_for[{VSOCK}]", "never_updates", "assert ['67108864"),
    (f"resources::test_a_container_that_runs_out_of_memory_is_told_of[{VSOCK}]", "loses_an_event", "waited"),
    (f"resources::test_an_event_is_told_to_one_client[{VSOCK}]", "tells_an_event_to_all", "assert ["),
    (f"resources::test_a_copied_file_is_whole[{VSOCK}-10]", "ignores_permissions", "assert ['600"),
    (f"resources::test_a_copied_file_is_whole[{VSOCK}-10]", "keeps_what_is_copied_to_itself", "assert ['640:0:0"),
    (
        f"resources::test_a_file_is_copied_nowhere_else[{VSOCK}-/etc/kvtest-intruder]",
        "copies_anywhere",
        "DID NOT RAISE",
    ),
    (
        f"resources::test_a_storage_is_mounted_for_its_container[{VSOCK}]",
        "mounts_no_storage",
        "assert b'/kvtest-sto",
    ),
    (f"resources::test_the_sandbox_has_its_host_name[{VSOCK}]", "ignores_the_host_name", "== b'pod-7"),
    (f"resources::test_the_end_of_the_sandbox_ends_all_containers[{VSOCK}]", "leaves_a_container", "waited"),
    (f"clients::test_each_client_has_a_life_cycle_of_its_own[{VSOCK}-8]", "serves_one_client_at_a_time", "Barrier"),
    (f"clients::test_two_shims_have_a_container_each[{VSOCK}]", "mixes_containers", "assert 137 == 0"),
    (f"clients::test_calls_that_wait_hold_up_nobody[{VSOCK}-wait+wait]", "is_blocked_by_a_wait", "waited"),
    (f"clients::test_calls_that_wait_hold_up_nobody[{VSOCK}-stdout+stderr]", "is_blocked_by_a_read", "waited"),
    (f"clients::test_calls_that_wait_hold_up_nobody[{VSOCK}-oom+oom]", "is_blocked_by_an_event", "waited"),
    (f"clients::test_calls_that_wait_hold_up_nobody[{VSOCK}-stdin+oom]", "is_blocked_by_a_write", "waited"),
    (f"clients::test_every_waiter_gets_the_exit_status[{VSOCK}]", "tells_the_first_waiter_only", "waited"),
    (f"clients::test_one_of_many_creators_wins[{VSOCK}]", "creates_twice", "'created', 'created'"),
    (f"clients::test_one_of_many_removers_wins[{VSOCK}]", "lets_both_remove", "'removed', 'removed'"),
    (
        f"clients::test_a_container_outlives_the_client_that_made_it[{VSOCK}]",
        "removes_containers_with_their_client",
        "RPCError",
    ),
    (f"clients::test_readers_share_a_stream[{VSOCK}]", "gives_bytes_twice", "assert 217788 == 108894"),
    (f"clients::test_execs_of_many_clients_do_not_mix[{VSOCK}]", "mixes_execs", "assert ["),
    (
        f"clients::test_many_calls_on_one_connection_are_answered_in_any_order[{VSOCK}]",
        "answers_in_order",
        "waited",
    ),
    (f"hostile::test_others_go_on[{VSOCK}-garbage]", "dies_of_garbage", "ended"),
    (f"hostile::test_others_go_on[{VSOCK}-half_a_frame]", "waits_for_the_rest_of_a_frame", "waited"),
    (
        f"hostile::test_what_does_not_exist_is_refused[{VSOCK}-grpc.AgentService-NoSuchMethod]",
        "calls_the_unknown_internal",
        "assert 13 in (",
    ),
    (f"hostile::test_a_request_that_is_no_message_is_refused[{VSOCK}]", "answers_no_bad_request", "waited"),
    (f"hostile::test_a_client_that_never_reads_holds_up_nobody[{VSOCK}]", "waits_for_a_client_to_read", "waited"),
    (
        f"hostile::test_what_clients_had_comes_back_when_they_vanish[{VSOCK}]",
        "leaks_a_descriptor",
        "descriptors, threads, KiB",
    ),
    (f"hostile::test_what_a_vanished_client_waited_for_goes_to_others[{VSOCK}]", "answers_the_dead", "has ended"),
    (f"lost::test_every_call_ends_with_what_it_depends_on[{VSOCK}-agent]", "leaves_its_sockets_to_a_child", "waited"),
    (
        f"lost::test_every_call_ends_with_what_it_depends_on[{VSOCK}-qemu]",
        device.keeps_connections_of_a_dead_guest.work,
        "waited",
    ),
    (f"lost::test_calls_in_flight_survive_a_vm_that_stands_still[{VSOCK}]", never_goes_on, "waited"),
    (
        f"lost::test_a_call_that_was_given_up_does_not_spoil_the_connection[{VSOCK}]",
        "ends_a_connection_with_a_late_call",
        "the connection ended",
    ),
    (f"ports::test_the_log_is_lines_of_json[{VSOCK}]", "logs_plain_text", "JSONDecodeError"),
    (
        f"ports::test_every_client_of_the_debug_console_has_a_shell[{VSOCK}]",
        "has_one_shell_for_all",
        "timed out",
    ),
    (
        f"ports::test_clients_of_the_serial_port_come_one_after_the_other[{SERIAL}]",
        "serves_the_first_client_of_a_port_only",
        "waited",
    ),
    (
        f"ports::test_a_client_that_leaves_in_the_middle_is_followed_by_another[{SERIAL}]",
        "takes_all_clients_of_a_port_for_one",
        "waited",
    ),
    (
        f"ports::test_the_serial_port_and_vsock_lead_to_the_same_agent[{VSOCK}-virtio-serial]",
        "has_a_sandbox_for_each_way_in",
        "no container",
    ),
]


def _saboteurs() -> dict[str | Break, Saboteur]:
    """Return the saboteurs of the table, each with the requirements of its tests."""
    required: dict[str | Break, dict[str, None]] = {}
    for name, breaker, _ in _TABLE:
        file, _, function = name.partition("::")
        test = f"suites/agent/test_{file}.py::{function}"
        required.setdefault(breaker, {}).update(dict.fromkeys(suite_tests()[test]))
    return {
        breaker: register(
            Saboteur(
                name := f"agent.{breaker if isinstance(breaker, str) else breaker.__name__}",
                f"An agent that {name.removeprefix('agent.').replace('_', ' ')}.",
                tuple(requirements),
                contextlib.nullcontext if isinstance(breaker, str) else breaker,
            )
        )
        for breaker, requirements in required.items()
    }


_SABOTEURS = _saboteurs()
_IN_GUEST = {saboteur.name: breaker for breaker, saboteur in _SABOTEURS.items() if isinstance(breaker, str)}
_FIRST = {name: breaker for name, breaker, _ in reversed(_TABLE)}
FAULTS = [
    Fault(f"test_{name}", _SABOTEURS[breaker], message, also=_FIRST[name] is not breaker)
    for name, breaker, message in _TABLE
]


def sabotage(path: str, name: str) -> str:
    """Have the agent break something; runs in the guest."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        connection.sendall(name.encode())
        return connection.recv(100).decode()


def pytest_configure() -> None:
    AgentEndpoint.remove_all = lambda self: None  # type: ignore[method-assign]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # a broken agent is nobody else's
        item.add_marker(pytest.mark.guest(fresh=True), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    module: Any = getattr(item, "module", None)
    for name in ("BOUND", "PATIENCE"):
        if hasattr(module, name):
            setattr(module, name, BOUND)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, Any, Any]:
    result = yield
    if fixturedef.argname == "endpoint":
        fault = fault_of(request.node.nodeid)
        assert fault is not None
        if fault.saboteur.name in _IN_GUEST:
            broken = request.getfixturevalue("guest").call(sabotage, SOCKET, _IN_GUEST[fault.saboteur.name])
            assert broken == "broken"
    return result
