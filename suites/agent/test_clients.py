# SPDX-License-Identifier: Apache-2.0
"""Many clients of one agent, at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from kvtest import requirement
from kvtest.errors import ConnectionLostError, RPCError
from kvtest.rpc.api import Pending
from kvtest.runtime.agent import Agent, AgentEndpoint
from kvtest.runtime.agent_container import Container

pytestmark = pytest.mark.guest(image="agent", scope="module", vsock=True, serial_ports=["agent.channel.0"])

PATIENCE = 120.0
BOUND = 10.0  # seconds, of the requirement

# Every call that may wait for long, on a container that neither writes, nor reads, nor ends.
LONG_CALLS: dict[str, Callable[[Agent, Container], Pending]] = {
    "wait": lambda agent, container: container.over(agent).begin("WaitProcess"),
    "stdout": lambda agent, container: container.over(agent).begin("ReadStdout", len=100),
    "stderr": lambda agent, container: container.over(agent).begin("ReadStderr", len=100),
    "stdin": lambda agent, container: container.over(agent).begin("WriteStdin", data=bytes(1 << 18)),
    "oom": lambda agent, _container: agent.begin("GetOOMEvent"),
}


@requirement("AGENT-CLIENTS-001")
@pytest.mark.parametrize("count", [1, 8, 64])
def test_each_client_has_a_life_cycle_of_its_own(endpoint: AgentEndpoint, count: int) -> None:
    everybody = Barrier(count)

    def live(number: int) -> tuple[bytes, int]:
        with endpoint.connect(PATIENCE) as agent:
            assert agent.check() == "SERVING"
            everybody.wait(PATIENCE)  # all are connected and have been answered
            container = agent.run(["sh", "-c", f"echo client {number}; exit {number}"], deadline=PATIENCE)
            seen = container.read_all(deadline=PATIENCE), container.wait(PATIENCE)
            container.remove(PATIENCE)
            return seen

    with ThreadPoolExecutor(count) as pool:
        seen = list(pool.map(live, range(count)))
    assert seen == [(b"client %d\n" % number, number) for number in range(count)]


@requirement("AGENT-CLIENTS-002")
def test_two_shims_have_a_container_each(endpoint: AgentEndpoint) -> None:
    """As in the document's diagram: each has one connection, and calls that wait on it all the time."""
    with endpoint.connect() as one, endpoint.connect() as other:
        containers = [agent.run(["cat"]) for agent in (one, other)]
        waiting = [container.begin("WaitProcess") for container in containers]
        for turn in range(8):
            for number, container in enumerate(containers):
                reading = container.begin("ReadStdout", len=100)
                container.write(b"shim %d turn %d\n" % (number, turn))
                assert reading.result(BOUND).data == b"shim %d turn %d\n" % (number, turn)
        containers[0].kill()
        assert waiting[0].result(BOUND).status == one.behaviour.signalled + 9
        containers[1].close_input()
        assert waiting[1].result(BOUND).status == 0


@requirement("AGENT-CLIENTS-003")
@pytest.mark.parametrize("kinds", list(itertools.combinations_with_replacement(LONG_CALLS, 2)), ids="+".join)
def test_calls_that_wait_hold_up_nobody(endpoint: AgentEndpoint, kinds: tuple[str, str]) -> None:
    with endpoint.connect() as one, endpoint.connect() as two, endpoint.connect() as bystander:
        container = one.run(["sleep", "1000"])
        if "stdin" in kinds:
            container.write(bytes(1 << 16))  # the pipe is full
        pending = [LONG_CALLS[kind](agent, container) for kind in kinds for agent in (one, two)]
        assert bystander.check(BOUND) == "SERVING"
        assert container.over(bystander).statistics(BOUND).cgroup_stats.pids_stats.current == 1
        neighbour = bystander.run(["echo", "alive"], deadline=BOUND)
        assert neighbour.read_all(deadline=BOUND) == b"alive\n"
        assert neighbour.wait(BOUND) == 0
        neighbour.remove(BOUND)
        assert one.check(BOUND) == "SERVING"  # nor the connection that it is outstanding on
        assert not [call for call in pending if call.answered]


@requirement("AGENT-CLIENTS-004")
def test_every_waiter_gets_the_exit_status(endpoint: AgentEndpoint) -> None:
    with endpoint.connect() as one, endpoint.connect() as two:
        container = one.run(["sh", "-c", "read line; exit 77"])
        pending = [container.over(agent).begin("WaitProcess") for agent in (one, two, one, two)]
        container.write(b"go\n")
        assert [call.result(BOUND).status for call in pending] == [77] * 4


@requirement("AGENT-CLIENTS-005")
def test_one_of_many_creators_wins(endpoint: AgentEndpoint) -> None:
    def create(agent: Agent) -> str:
        try:
            agent.create(["cat"], name="contested")
        except ConnectionLostError:
            raise
        except RPCError:
            return "refused"
        return "created"

    with endpoint.connect() as one, endpoint.connect() as two, ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(create, (one, two))) == ["created", "refused"]
        container = one.container("contested")
        container.start()
        container.over(two).write(b"works\n")
        assert container.read_until(b"\n") == b"works\n"


@requirement("AGENT-CLIENTS-006")
def test_one_of_many_removers_wins(endpoint: AgentEndpoint) -> None:
    def remove(container: Container) -> str:
        try:
            container.remove()
        except ConnectionLostError:
            raise
        except RPCError:
            return "refused"
        return "removed"

    with endpoint.connect() as one, endpoint.connect() as two, ThreadPoolExecutor(2) as pool:
        container = one.run(["sleep", "1000"])
        assert sorted(pool.map(remove, (container, container.over(two)))) == ["refused", "removed"]
        with pytest.raises(RPCError):
            container.statistics()


@requirement("AGENT-CLIENTS-007")
def test_a_container_outlives_the_client_that_made_it(endpoint: AgentEndpoint) -> None:
    with endpoint.connect() as maker:
        name = maker.run(["cat"]).name
    with endpoint.connect() as heir:
        container = heir.container(name)
        container.write(b"still here\n")
        assert container.read_until(b"\n") == b"still here\n"


@requirement("AGENT-CLIENTS-008")
def test_readers_share_a_stream(endpoint: AgentEndpoint) -> None:
    """Two clients that read one stream get every byte once, between them."""
    with endpoint.connect() as one, endpoint.connect() as two, ThreadPoolExecutor(2) as pool:
        container = one.run(["sh", "-c", "seq 1 20000"])
        shares = list(pool.map(lambda agent: container.over(agent).read_all(), (one, two)))
        assert sum(map(len, shares)) == sum(len(f"{number}\n") for number in range(1, 20001))


@requirement("AGENT-CLIENTS-009")
def test_execs_of_many_clients_do_not_mix(endpoint: AgentEndpoint) -> None:
    with endpoint.connect() as agent:
        container = agent.run(["sleep", "1000"])

    def execute(number: int) -> bytes:
        with endpoint.connect() as agent:
            words = f"exec{number}"
            process = agent.container(container.name).execute(
                words, ["sh", "-c", f"for i in 1 2 3 4 5; do echo {words}; cat /proc/uptime >/dev/null; done"]
            )
            return process.read_all()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(execute, range(6))) == [b"exec%d\n" % number * 5 for number in range(6)]


@requirement("AGENT-CLIENTS-010")
def test_many_calls_on_one_connection_are_answered_in_any_order(agent: Agent) -> None:
    containers = [agent.run(["sh", "-c", "read line; exit $line"]) for _ in range(3)]
    pending = [container.begin("WaitProcess") for container in containers]
    for number in (2, 0, 1):
        containers[number].write(b"%d\n" % (10 + number))
        assert pending[number].result(BOUND).status == 10 + number
