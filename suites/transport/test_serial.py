# SPDX-License-Identifier: Apache-2.0
"""virtio-serial ports: one process at a time on either side."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvtest import Guest, LocalHost, SerialPort, Steps, requirement
from kvtest.errors import TransportError
from kvtest.peers import (
    CHUNK,
    compare,
    ended_within,
    pattern,
    pattern_pieces,
    receive_exactly,
    received_pieces,
)

SIZE = 64 << 20
BOUND = 1.0  # seconds, of the requirement


def serial_echo(path: str) -> Steps:
    """Open a port; once resumed, send back whatever comes, for ever; runs in the guest."""
    port = os.open(path, os.O_RDWR)
    yield "open"
    poll = select.poll()
    poll.register(port, select.POLLIN)
    while True:
        poll.poll()
        if data := os.read(port, 65536):
            os.write(port, data)


def talk(path: str) -> Steps:
    """Connect to a port's host socket and exchange what is asked for; runs in a process of its own on the host."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(path)
        message = yield "connected"
        while message:
            connection.sendall(message)
            message = yield receive_exactly(connection, len(message))


def open_twice(path: str) -> list[str]:
    """Open a port, then try again; runs in the guest."""
    outcomes = []
    first = os.open(path, os.O_RDWR)
    try:
        os.close(os.open(path, os.O_RDWR))
        outcomes.append("opened")
    except OSError as error:
        outcomes.append(errno.errorcode[error.errno or 0])
    os.close(first)
    os.close(os.open(path, os.O_RDWR))
    outcomes.append("opened")
    return outcomes


def read_pieces(port: int, size: int) -> Iterator[bytes]:
    """Yield so many bytes from a port; runs in the guest."""
    left = size
    while left:
        piece = os.read(port, min(left, CHUNK))
        if not piece:
            raise EOFError(f"the host's side ended after {size - left} of {size} bytes")
        left -= len(piece)
        yield piece


def say_what_came(path: str, size: int) -> Steps:
    """Read so many bytes from a port and say whether they were the pattern; runs in the guest."""
    port = os.open(path, os.O_RDWR)
    yield "open"
    yield compare(read_pieces(port, size), 4)


def send(path: str, size: int) -> Steps:
    """Write so many bytes of the pattern to a port; runs in the guest."""
    port = os.open(path, os.O_RDWR)
    yield "open"
    for piece in pattern_pieces(5, size):
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(port, rest) :]
    yield "sent"


def receive(path: str, size: int) -> Steps:
    """Read so many bytes from a port; runs in the guest."""
    port = os.open(path, os.O_RDWR)
    yield "open"
    yield b"".join(read_pieces(port, size))


@requirement("SERIAL-NAME-001")
def test_a_port_has_its_name(guest: Guest, serial: SerialPort) -> None:
    device = guest.run(["readlink", serial.guest_path]).check().text.removeprefix("../")
    assert guest.read_file(f"/sys/class/virtio-ports/{device}/name").decode().strip() == serial.name


@requirement("SERIAL-NAME-001")
def test_what_is_sent_to_a_port_arrives_under_its_name(guest: Guest, serial: SerialPort) -> None:
    ports = guest.serial_ports
    names = [port.name.encode() for port in ports]
    with contextlib.ExitStack() as stack:
        readers = []
        for port, name in zip(ports, names, strict=True):
            stack.enter_context(port.connect()).sendall(name)
            readers.append(stack.enter_context(guest.start(receive, port.guest_path, len(name))))
        assert [reader.send() for reader in readers] == names


@requirement("SERIAL-CLIENTS-001")
@requirement("SERIAL-CLIENTS-002")
def test_one_host_process_is_served_at_a_time(guest: Guest, serial: SerialPort, host: LocalHost) -> None:
    with guest.start(serial_echo, serial.guest_path) as echo, host.start(talk, str(serial.path)) as first:
        echo.resume()
        assert first.send(b"first") == b"first"
        with serial.connect() as second:
            second.sendall(b"second")
            # The guest has echoed more of the first process: were the second served, its bytes would be among them.
            for number in range(20):
                assert first.send(b"still first %d" % number) == b"still first %d" % number
            assert select.select([second], [], [], 0)[0] == []
            first.close()
            assert receive_exactly(second, 6) == b"second"


@requirement("SERIAL-OPEN-001")
def test_a_port_is_opened_once_in_the_guest(guest: Guest, serial: SerialPort) -> None:
    assert guest.call(open_twice, serial.guest_path) == ["EBUSY", "opened"]


@requirement("SERIAL-DATA-001")
@pytest.mark.parametrize("size", [1, 4097, SIZE])
def test_the_host_sends(guest: Guest, serial: SerialPort, size: int) -> None:
    with serial.connect(timeout=60) as connection, guest.start(say_what_came, serial.guest_path, size) as task:
        task.resume()
        connection.sendall(pattern(4, size))
        assert task.answer(deadline=60) == f"{size} bytes"


@requirement("SERIAL-DATA-002")
@pytest.mark.parametrize("size", [1, 4097, SIZE])
def test_the_guest_sends(guest: Guest, serial: SerialPort, size: int) -> None:
    with serial.connect(timeout=60) as connection, guest.start(send, serial.guest_path, size) as task:
        task.resume()
        assert compare(received_pieces(connection, size), 5) == f"{size} bytes"
        assert task.answer() == "sent"


@requirement("SERIAL-DATA-001")
@requirement("SERIAL-DATA-002")
def test_every_value_of_a_byte_passes(guest: Guest, serial: SerialPort) -> None:
    every = bytes(range(256))
    with guest.start(serial_echo, serial.guest_path) as task, serial.connect() as connection:
        task.resume()
        connection.sendall(every)
        assert receive_exactly(connection, 256) == every


@requirement("SERIAL-CLOSE-001")
def test_the_guest_sees_the_host_leave_and_return(guest: Guest, serial: SerialPort) -> None:
    def watch(path: str) -> Steps:
        port = os.open(path, os.O_RDWR)
        poll = select.poll()
        poll.register(port, 0)  # POLLHUP is told without being asked for
        yield "open"
        yield [bool(event & select.POLLHUP) for _, event in poll.poll()]
        while poll.poll(0):  # as long as nobody is there
            pass
        yield os.read(port, 100)

    with serial.connect() as first, guest.start(watch, serial.guest_path) as task:
        first.close()
        assert task.send() == [True]
        with serial.connect() as second:
            second.sendall(b"back")
            assert task.send() == b"back"


@requirement("SERIAL-CLOSE-002")
def test_qemu_tells_when_the_guest_closes_a_port(guest: Guest, serial: SerialPort) -> None:
    monitor = guest.vm.monitor
    seen = len(monitor.events)
    with serial.connect() as connection:
        with guest.start(serial_echo, serial.guest_path) as task:
            monitor.wait_event("VSERPORT_CHANGE", since=seen, id=serial.device, open=True)
            task.resume()
            connection.sendall(b"hello")
            assert receive_exactly(connection, 5) == b"hello"
        monitor.wait_event("VSERPORT_CHANGE", since=seen, id=serial.device, open=False)
        assert select.select([connection], [], [], 0)[0] == [], "the host's socket ended with the guest's port"
        with guest.start(serial_echo, serial.guest_path) as task:
            task.resume()
            connection.sendall(b"again")
            assert receive_exactly(connection, 5) == b"again"


@requirement("SERIAL-CLOSE-003")
def test_bytes_wait_for_the_guest_to_open_the_port(guest: Guest, serial: SerialPort) -> None:
    with serial.connect() as connection:
        connection.sendall(b"early")
        with guest.start(serial_echo, serial.guest_path) as task:
            task.resume()
            assert receive_exactly(connection, 5) == b"early"


@requirement("SERIAL-PORTS-001")
def test_a_port_that_nobody_reads_stalls_no_other(guest: Guest, serial: SerialPort) -> None:
    other = guest.serial_ports[1]
    with (
        serial.connect() as ignored,
        other.connect() as connection,
        guest.start(send, serial.guest_path, SIZE) as stuck,
        guest.start(serial_echo, other.guest_path) as task,
        ThreadPoolExecutor(1) as sender,
    ):
        stuck.resume()
        # Once its first bytes are here the guest is sending, and nobody takes the rest.
        assert len(ignored.recv(1, socket.MSG_PEEK)) == 1
        task.resume()
        payload = pattern(6, 1 << 20)
        sending = sender.submit(connection.sendall, payload)
        assert receive_exactly(connection, len(payload)) == payload
        sending.result()


@pytest.mark.guest(fresh=True)
@pytest.mark.parametrize(
    "end",
    [
        pytest.param("kill", marks=requirement("SERIAL-LOST-001")),
        pytest.param("power_off", marks=requirement("SERIAL-LOST-002")),
    ],
)
def test_the_connection_ends_with_the_guest(guest: Guest, serial: SerialPort, end: str) -> None:
    guest.start(serial_echo, serial.guest_path).resume()
    with serial.connect() as connection:
        connection.sendall(b"hello")
        assert receive_exactly(connection, 5) == b"hello"
        getattr(guest.vm, end)()
        assert ended_within([connection], BOUND) == 1
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(b"anybody there?")
    with pytest.raises(TransportError):
        serial.connect()
