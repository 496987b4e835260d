# SPDX-License-Identifier: Apache-2.0
"""The agent's other ways in: its log, the debug console, and a virtio-serial port."""

from __future__ import annotations

import json
import socket

import pytest

from kvtest import SerialPort, requirement
from kvtest.harness import RunningMachine
from kvtest.peers import ended_within
from kvtest.rpc import frames
from kvtest.runtime.agent import AgentEndpoint
from kvtest.runtime.agent_address import SerialAddress
from kvtest.runtime.agent_dial import dial
from kvtest.transport import Transport

pytestmark = pytest.mark.guest(image="agent", fresh=True, vsock=True, serial_ports=["agent.channel.0"])

LOG_PORT = 1025
CONSOLE_PORT = 1026
STILL = 0.5
BOUND = 10.0  # seconds, of the requirement


def read_until(connection: socket.socket, ending: bytes) -> bytes:
    """Return what comes up to and with some bytes."""
    received = bytearray()
    while ending not in received:
        part = connection.recv(4096)
        assert part, f"the stream ended after {bytes(received)!r}"
        received += part
    return bytes(received)


@requirement("AGENT-LOG-001")
def test_the_log_is_lines_of_json(endpoint: AgentEndpoint, agent_machine: RunningMachine) -> None:
    with agent_machine.vsock.connect(LOG_PORT) as log:
        entry = json.loads(read_until(log, b"\n").splitlines()[0])
    assert {"level", "msg", "ts"} <= entry.keys()
    with endpoint.connect() as agent:
        assert agent.check() == "SERVING"


@requirement("AGENT-CONSOLE-001")
def test_every_client_of_the_debug_console_has_a_shell(endpoint: AgentEndpoint, agent_machine: RunningMachine) -> None:
    with agent_machine.vsock.connect_many(CONSOLE_PORT, 2) as clients:
        for number, client in enumerate(clients):
            client.sendall(b"mine=%d\n" % number)
        for number, client in enumerate(clients):
            client.sendall(b"echo value $mine$mine\n")
            assert b"value %d%d" % (number, number) in read_until(client, b"value %d%d\r\n" % (number, number))
        clients[0].sendall(b"exit\n")
        assert ended_within([clients[0]], BOUND) == 1
        clients[1].sendall(b"echo alive $((6*7))\n")
        read_until(clients[1], b"alive 42\r\n")
    with endpoint.connect() as agent:
        assert agent.check() == "SERVING"


@requirement("AGENT-SERIAL-001")
@pytest.mark.parametrize("endpoint", [Transport.VIRTIO_SERIAL], ids=str, indirect=True)
def test_clients_of_the_serial_port_come_one_after_the_other(endpoint: AgentEndpoint) -> None:
    for number in range(3):
        with endpoint.connect() as agent:
            assert agent.run(["sh", "-c", f"exit {number}"]).wait() == number


@requirement("AGENT-SERIAL-002")
@pytest.mark.parametrize("endpoint", [Transport.VIRTIO_SERIAL], ids=str, indirect=True)
def test_a_client_that_leaves_in_the_middle_is_followed_by_another(endpoint: AgentEndpoint) -> None:
    with endpoint.connect() as agent:
        container = agent.run(["sh", "-c", "read line; exit 4"])
        container.begin("WaitProcess")
        agent.check()
    with dial(endpoint.address, BOUND) as rude:
        rude.sendall(frames.encode(1, frames.REQUEST, bytes(100))[:50])
    with endpoint.connect() as agent:
        assert agent.check(BOUND) == "SERVING"
        agent.container(container.name).write(b"go\n")
        assert agent.container(container.name).wait() == 4


@requirement("AGENT-SERIAL-003")
def test_the_serial_port_and_vsock_lead_to_the_same_agent(endpoint: AgentEndpoint, serial: SerialPort) -> None:
    with endpoint.connect() as agent, AgentEndpoint(SerialAddress(str(serial.path))).connect() as over_serial:
        container = agent.run(["sh", "-c", "read line; exit 9"])
        waiting = [container.begin("WaitProcess"), container.over(over_serial).begin("WaitProcess")]
        container.over(over_serial).write(b"go\n")
        assert [call.result(BOUND).status for call in waiting] == [9, 9]
