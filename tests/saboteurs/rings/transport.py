# SPDX-License-Identifier: Apache-2.0
"""The transport ring: a device and serial ports with faults."""

from __future__ import annotations

from tests.saboteurs import device, serial
from tests.saboteurs.registry import Fault

EVERY_TEST = True
FAULTS = [
    Fault(
        "test_vsock_clients::test_each_client_gets_only_its_own_bytes*-1]", device.flips_a_byte_to_the_host, "assert ["
    ),
    Fault("test_vsock_clients::test_each_client_gets_only_its_own_bytes*", device.forwards_a_stale_buffer, "assert ["),
    Fault("test_vsock_clients::test_clients_are_served_at_once*", device.serves_one_client_at_a_time, "refused"),
    Fault("test_vsock_clients::test_streams_of_many_clients*", device.forwards_a_stale_buffer, "assert [False"),
    Fault(
        "test_vsock_clients::test_a_client_that_never*", device.lets_one_slow_host_process_stall_all, "waited 10.0 s"
    ),
    Fault("test_vsock_clients::test_a_guest_that_never*", device.lets_one_slow_guest_socket_stall_all, "timed out"),
    Fault(
        "test_vsock_close::test_the_guest_sees*", device.keeps_the_guest_waiting_for_the_end, "'TimeoutError' == b'last"
    ),
    Fault("test_vsock_close::test_the_guest_cannot_write*", device.takes_what_nobody_reads, "'sent'"),
    Fault("test_vsock_close::test_the_host_sees*", device.keeps_the_host_waiting_for_the_end, "timed out"),
    Fault(
        "test_vsock_close::test_the_guest_can_answer*",
        device.takes_half_a_close_of_the_host_for_a_whole,
        "'BrokenPipeError' == 'sent'",
    ),
    Fault("test_vsock_close::test_the_host_can_answer*", device.takes_half_a_close_of_the_guest_for_a_whole, "Broken"),
    Fault("test_vsock_close::test_many_connections*", device.never_frees_a_place, "refused"),
    Fault("test_vsock_data::test_the_host_sends*", device.flips_a_byte_to_the_guest, "differs' == "),
    Fault("test_vsock_data::test_the_guest_sends*67108864]", device.loses_a_packet_to_the_host, "differs' == "),
    Fault("test_vsock_data::test_the_guest_sends*", device.flips_a_byte_to_the_host, "differs' == "),
    Fault("test_vsock_data::test_every_value*", device.treats_data_as_text, "assert"),
    Fault("test_vsock_directions::test_the_host_connects*", device.refuses_every_host_process, "refused"),
    Fault("test_vsock_directions::test_the_host_reads_ok*", device.says_ok_after_the_first_bytes, "assert None"),
    Fault("test_vsock_directions::test_what_follows*", device.drops_what_follows_connect, "assert None"),
    Fault("test_vsock_directions::test_the_guest_connects*-1]", device.refuses_the_guest, "ConnectionResetError"),
    Fault("test_vsock_directions::test_the_guest_connects*", device.forwards_a_stale_buffer, "assert b"),
    Fault("test_vsock_directions::test_a_port_without*", device.says_ok_too_early, "DID NOT RAISE"),
    Fault("test_vsock_directions::test_the_guest_is_refused*", device.leaves_the_guest_without_answer, "'ETIMEDOUT'"),
    Fault("test_vsock_directions::test_more_connections*", device.says_ok_too_early, "64 < 64"),
    Fault("test_vsock_directions::test_a_port_can*", device.never_asks_again_after_a_refusal, "refused"),
    Fault("test_vsock_directions::test_the_addresses*", device.has_another_address, "== ["),
    Fault("test_vsock_lost::*", device.keeps_connections_of_a_dead_guest, "assert 0 == 9"),
    Fault("test_serial::test_a_port_has*", serial.links_the_wrong_device, "assert"),
    Fault("test_serial::test_what_is_sent*", serial.interchanges_sockets, "assert [b'org.kvtest"),
    Fault("test_serial::test_one_host_process*", serial.serves_a_crowd, "assert"),
    Fault("test_serial::test_one_host_process*", serial.serves_only_the_first, "timed out", also=True),
    Fault("test_serial::test_a_port_is_opened_once*", serial.opens_twice, "assert ['opened', 'opened']"),
    Fault("test_serial::test_the_host_sends*", serial.flips_a_byte_to_the_guest, "differs' == "),
    Fault("test_serial::test_the_guest_sends*", serial.flips_a_byte_to_the_host, "differs' == "),
    Fault("test_serial::test_every_value*", serial.treats_data_as_text, "assert"),
    Fault("test_serial::test_the_guest_sees*", serial.clings, "waited 30.0 s for the answer"),
    Fault("test_serial::test_qemu_tells*", serial.hides_the_guests_close, "NEVER"),
    Fault("test_serial::test_bytes_wait*", serial.forgets_what_came_early, "timed out"),
    Fault("test_serial::test_a_port_that_nobody*", serial.shares_a_thread, "timed out"),
    Fault("test_serial::test_the_connection_ends*", serial.clings, "assert 0 == 1"),
]
