# SPDX-License-Identifier: Apache-2.0
"""Clients that misbehave: the others go on, and what the agent had for them comes back."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable

import pytest

from kvtest import Guest, requirement
from kvtest.errors import RPCError
from kvtest.rpc import frames
from kvtest.rpc.envelope import Request
from kvtest.rpc.status import Code
from kvtest.runtime.agent import AGENT, HEALTH, Agent, AgentEndpoint
from kvtest.runtime.agent_dial import dial

pytestmark = pytest.mark.guest(image="agent", scope="module", vsock=True, serial_ports=["agent.channel.0"])

BOUND = 10.0  # seconds, of the requirements
PATIENCE = 30.0
CLIENTS = 24
SPARE_MEMORY = 8 << 10  # KiB, of the requirement
CHECK = Request(HEALTH, "Check", b"").encode()


def connect(endpoint: AgentEndpoint) -> socket.socket:
    """Return a connection that speaks whatever the test wants."""
    connection = dial(endpoint.address, BOUND)
    connection.settimeout(BOUND)
    return connection


def half_a_frame(connection: socket.socket) -> None:
    connection.sendall(frames.encode(1, frames.REQUEST, CHECK)[:-5])


def large_half_a_frame(connection: socket.socket) -> None:
    connection.sendall(frames.encode(1, frames.REQUEST, bytes(1 << 20))[:-5])


def half_a_header(connection: socket.socket) -> None:
    connection.sendall(b"\0\0\0")


def garbage(connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n" + bytes(range(256)))


def an_answer(connection: socket.socket) -> None:
    connection.sendall(frames.encode(1, frames.RESPONSE, CHECK))


def a_frame_over_the_limit(connection: socket.socket) -> None:
    connection.sendall((frames.DATA_LIMIT + 1).to_bytes(4, "big") + b"\0\0\0\1\1\0" + bytes(4096))


def streams_that_go_back(connection: socket.socket) -> None:
    connection.sendall(b"".join(frames.encode(number, frames.REQUEST, CHECK) for number in (5, 3, 2)))


def no_message(connection: socket.socket) -> None:
    connection.sendall(frames.encode(1, frames.REQUEST, b"\xff" * 100))


MISBEHAVIOUR: list[Callable[[socket.socket], None]] = [
    half_a_frame,
    large_half_a_frame,
    half_a_header,
    garbage,
    an_answer,
    a_frame_over_the_limit,
    streams_that_go_back,
    no_message,
]


def belongings(pid: int) -> tuple[int, int, int]:
    """Return the descriptors, threads and KiB of memory of a process; runs in the guest."""
    with open(f"/proc/{pid}/status", encoding="ascii") as stream:
        status = dict(line.split(":", 1) for line in stream)
    return len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]), int(status["VmRSS"].split()[0])


def belongings_after(pid: int, descriptors: int, threads: int, memory: int, bound: float) -> list[int]:
    """Return the same as soon as it is no more than that, and at the latest when time is up; runs in the guest."""
    end = time.monotonic() + bound
    ended = select.poll()
    ended.register(os.pidfd_open(pid), select.POLLIN)
    while True:
        seen = belongings(pid)
        if (seen[0] <= descriptors and seen[1] <= threads and seen[2] <= memory) or time.monotonic() >= end:
            return list(seen)
        if ended.poll(50):
            return [-1, -1, -1]


@requirement("AGENT-HOSTILE-001")
@pytest.mark.parametrize("misbehave", MISBEHAVIOUR, ids=lambda function: function.__name__)
def test_others_go_on(agent: Agent, endpoint: AgentEndpoint, misbehave: Callable[[socket.socket], None]) -> None:
    container = agent.run(["cat"])
    with contextlib.ExitStack() as stack:
        hostile = [stack.enter_context(connect(endpoint)) for _ in range(4)]
        for connection in hostile:
            misbehave(connection)
        container.write(b"still here\n", BOUND)
        assert container.read_until(b"\n", BOUND) == b"still here\n"
        with endpoint.connect(BOUND) as newcomer:
            assert newcomer.check(BOUND) == "SERVING"
    assert agent.check(BOUND) == "SERVING"


@requirement("AGENT-HOSTILE-008")
@pytest.mark.parametrize(("service", "method"), [(AGENT, "NoSuchMethod"), ("grpc.NoSuchService", "Check")])
def test_what_does_not_exist_is_refused(agent: Agent, service: str, method: str) -> None:
    with pytest.raises(RPCError) as refused:
        agent.client.call(service, method, b"", BOUND)
    assert refused.value.code in (Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED)
    assert agent.check(BOUND) == "SERVING"


@requirement("AGENT-HOSTILE-004")
def test_a_request_that_is_no_message_is_refused(agent: Agent) -> None:
    with pytest.raises(RPCError):
        agent.client.call(AGENT, "CreateContainer", b"\xff\xff\xff", BOUND)
    assert agent.check(BOUND) == "SERVING"


@requirement("AGENT-HOSTILE-005")
def test_a_client_that_never_reads_holds_up_nobody(agent: Agent, endpoint: AgentEndpoint) -> None:
    container = agent.run(["sh", "-c", "yes | head -c 4000000"])
    with connect(endpoint) as deaf:
        request = endpoint_request(agent, container.name)
        # In one piece, and answered with more than is on the way to somebody who does not read.
        deaf.sendall(b"".join(frames.encode(number, frames.REQUEST, request) for number in range(1, 128, 2)))
        assert agent.check(BOUND) == "SERVING"
        with endpoint.connect(BOUND) as newcomer:
            assert newcomer.run(["sh", "-c", "exit 6"], deadline=BOUND).wait(BOUND) == 6


def endpoint_request(agent: Agent, name: str) -> bytes:
    """Return an encoded call that is answered with much."""
    payload = agent.message("ReadStreamRequest", container_id=name, len=1 << 16).SerializeToString()
    return Request(AGENT, "ReadStdout", payload).encode()


@requirement("AGENT-HOSTILE-006")
def test_what_clients_had_comes_back_when_they_vanish(guest: Guest, agent: Agent, endpoint: AgentEndpoint) -> None:
    pid = int(guest.read_file("/run/kvtest/agent.pid"))
    container = agent.run(["sleep", "1000"])
    container.write(bytes(1 << 16))  # the pipe is full

    def vanish(number: int) -> None:
        """Leave in the middle of calls that wait, and of a frame."""
        with endpoint.connect(BOUND) as victim:
            own = container.over(victim)
            own.begin("WaitProcess")
            own.begin("ReadStdout", len=100)
            own.begin("WriteStdin", data=bytes(1 << 19))
            victim.begin("GetOOMEvent")
            assert victim.check(BOUND) == "SERVING"  # it has them all
        with connect(endpoint) as connection:
            MISBEHAVIOUR[number % len(MISBEHAVIOUR)](connection)

    for number in range(len(MISBEHAVIOUR)):  # what the agent needs once, it may keep
        vanish(number)
    descriptors, threads, memory = guest.call(belongings, pid)
    for number in range(CLIENTS):
        vanish(number)
    seen = guest.call(belongings_after, pid, descriptors, threads, memory + SPARE_MEMORY, BOUND)
    kept = [seen[0] <= descriptors, seen[1] <= threads, seen[2] <= memory + SPARE_MEMORY]
    assert all(kept), f"descriptors, threads, KiB: {seen}, before {[descriptors, threads, memory]}"
    assert agent.check(BOUND) == "SERVING"


@requirement("AGENT-HOSTILE-007")
def test_what_a_vanished_client_waited_for_goes_to_others(agent: Agent, endpoint: AgentEndpoint) -> None:
    container = agent.run(["sh", "-c", "read line; echo answer to $line; exit 8"])
    with endpoint.connect() as victim:
        own = container.over(victim)
        own.begin("ReadStdout", len=100)
        own.begin("WaitProcess")
        victim.begin("GetOOMEvent")
        victim.check()
    with endpoint.connect() as heir:  # accepted after the agent has seen the other go
        heir.check()
        container.over(heir).write(b"question\n")
        assert container.over(heir).read_until(b"\n") == b"answer to question\n"
        assert container.over(heir).wait() == 8
        starved = heir.begin("GetOOMEvent")
        name = heir.run(["tail", "/dev/zero"], memory=8 << 20).name
        assert starved.result(PATIENCE).container_id == name
