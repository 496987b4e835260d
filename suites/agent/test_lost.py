# SPDX-License-Identifier: Apache-2.0
"""The agent, or its VM, goes away or stands still with calls in flight: what each call sees, and when."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable

import pytest

from kvtest import Guest, requirement
from kvtest.errors import ConnectionLostError, DeadlineExceededError, RPCError
from kvtest.harness import RunningMachine
from kvtest.rpc.api import Pending
from kvtest.runtime.agent import Agent, AgentEndpoint
from kvtest.runtime.agent_container import Container

pytestmark = pytest.mark.guest(image="agent", fresh=True, vsock=True, serial_ports=["agent.channel.0"])

BOUND = 2.0  # seconds, of the requirements
STILL = 0.5
PATIENCE = 30.0

CALLS: dict[str, Callable[[Agent, Container], Pending]] = {
    "wait": lambda agent, container: container.begin("WaitProcess"),
    "stdout": lambda agent, container: container.begin("ReadStdout", len=100),
    "stdin": lambda agent, container: container.begin("WriteStdin", data=bytes(1 << 18)),
    "oom": lambda agent, container: agent.begin("GetOOMEvent"),
}


def kill_and_wait(pid: int) -> None:
    """Kill a process and wait until it has given up all that it had; runs in the guest."""
    ended = select.poll()
    ended.register(os.pidfd_open(pid), select.POLLIN)
    os.kill(pid, signal.SIGKILL)
    ended.poll()


def kill_agent(machine: RunningMachine) -> None:
    """Kill the agent with SIGKILL."""
    assert isinstance(machine, Guest)
    machine.call(kill_and_wait, int(machine.read_file("/run/kvtest/agent.pid")))


def kill_qemu(machine: RunningMachine) -> None:
    """Kill QEMU with SIGKILL."""
    machine.vm.kill()


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(
            kill_agent, marks=[requirement("AGENT-LOST-001"), pytest.mark.capability("agent-guest")], id="agent"
        ),
        pytest.param(kill_qemu, marks=requirement("AGENT-LOST-002"), id="qemu"),
    ],
)
def test_every_call_ends_with_what_it_depends_on(
    endpoint: AgentEndpoint, agent_machine: RunningMachine, end: Callable[[RunningMachine], None]
) -> None:
    with endpoint.connect() as one, endpoint.connect() as two:
        container = one.run(["sleep", "1000"])
        pending = [call(agent, container.over(agent)) for call in CALLS.values() for agent in (one, two)]
        one.check()
        two.check()
        end(agent_machine)
        for call in pending:
            with pytest.raises(ConnectionLostError):
                call.result(BOUND)
        for agent in (one, two):
            with pytest.raises(ConnectionLostError):
                agent.check(BOUND)
    with pytest.raises(DeadlineExceededError, match="refused the connection"):
        endpoint.connect(STILL)
    endpoint.created.clear()


@requirement("AGENT-LOST-003")
def test_an_agent_that_is_started_again_serves(guest: Guest, endpoint: AgentEndpoint) -> None:
    with endpoint.connect() as agent:
        name = agent.run(["sleep", "1000"]).name
    kill_agent(guest)
    argv = json.loads(guest.read_file("/etc/kvtest/agent.json"))["argv"]
    guest.control.start_process(argv)
    with endpoint.connect(PATIENCE) as agent:
        with pytest.raises(RPCError):
            agent.container(name).statistics()
        assert agent.run(["sh", "-c", "exit 3"], name=name).wait() == 3


@requirement("AGENT-LOST-004")
def test_calls_in_flight_survive_a_vm_that_stands_still(endpoint: AgentEndpoint, agent_machine: RunningMachine) -> None:
    with endpoint.connect() as agent:
        container = agent.run(["sh", "-c", "read line; echo got $line; exit 5"])
        waiting = container.begin("WaitProcess")
        reading = container.begin("ReadStdout", len=100)
        agent.check()
        agent_machine.vm.pause()
        checking = agent.begin("WriteStdin", container_id=container.name, data=b"it\n")
        with pytest.raises(DeadlineExceededError):
            agent.check(STILL)
        assert [call.answered for call in (waiting, reading, checking)] == [False] * 3
        agent_machine.vm.resume()
        assert checking.result(PATIENCE).len == 3
        assert reading.result(PATIENCE).data == b"got it\n"
        assert waiting.result(PATIENCE).status == 5
        assert agent.check() == "SERVING"


@requirement("AGENT-LOST-005")
def test_a_call_that_was_given_up_does_not_spoil_the_connection(endpoint: AgentEndpoint) -> None:
    with endpoint.connect() as agent:
        container = agent.run(["sh", "-c", "read line; exit 6"])
        with pytest.raises((DeadlineExceededError, RPCError)):
            container.wait(STILL)
        container.write(b"go\n")
        assert container.wait() == 6
