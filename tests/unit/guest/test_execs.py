# SPDX-License-Identifier: Apache-2.0
"""Processes beside a container's first one: how long an agent knows them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from kvtest.guest.agent.execs import KEPT, Execs
from kvtest.guest.agent.process import Process
from kvtest.guest.agent.service import replies
from kvtest.guest.reactor import Reactor
from kvtest.rpc import frames
from kvtest.rpc.api import load
from kvtest.rpc.envelope import Request, Response
from kvtest.rpc.server import Call, Connection

API = load("agent-3.30")
STATUS = API.message("grpc.WaitProcessResponse")


class Client:
    """Calls that wait for processes, and the statuses that they got."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self._parser = frames.Parser(frames.RESPONSE)
        self._connection = Connection({}, self._take)
        self._numbers = itertools.count(1, 2)

    def _take(self, data: bytes) -> None:
        for frame in self._parser.feed(data):
            assert frame.data is not None
            response = Response.decode(frame.data)
            assert response.code == 0, response.message
            self.statuses.append(STATUS.FromString(response.payload).status)

    def wait_for(self, process: Process) -> Call:
        call = Call(self._connection, next(self._numbers), Request("grpc.AgentService", "WaitProcess", b"", 0))
        process.wait(call)
        return call


@pytest.fixture
def make() -> Iterator[Callable[[], Process]]:
    """Makes processes."""
    reactor, made = Reactor(), list[Process]()

    def process() -> Process:
        made.append(Process(reactor, replies(API), None))
        return made[-1]

    yield process
    for one in made:
        one.close()
    reactor.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_those_whose_status_somebody_has_got_are_forgotten_in_the_end(make: Callable[[], Process]) -> None:
    execs, client = Execs(), Client()
    before = descriptors()
    for number in range(2 * KEPT):
        process = make()
        execs.add(f"exec-{number}", process)
        calls = [client.wait_for(process) for _ in range(2)]
        process.ended(number % 128 << 8)
        assert [call.answered for call in calls] == [True, True]
    assert client.statuses == [number % 128 for number in range(2 * KEPT) for _ in range(2)]
    assert list(execs.known) == [f"exec-{number}" for number in range(KEPT, 2 * KEPT)]
    for process in execs:
        client.wait_for(process)  # whoever asks late
        process.close()
    assert client.statuses[-KEPT:] == [number % 128 for number in range(KEPT, 2 * KEPT)]
    assert descriptors() == before


def test_those_of_whom_nobody_knows_are_kept(make: Callable[[], Process]) -> None:
    execs, client = Execs(), Client()
    unknown, running = make(), make()
    execs.add("unknown", unknown)
    execs.add("running", running)
    gone = client.wait_for(unknown)
    gone.answered = True  # its client has gone
    unknown.ended(7 << 8)
    for number in range(2 * KEPT):
        process = make()
        execs.add(f"exec-{number}", process)
        process.ended(0)
        client.wait_for(process)
    assert len(execs.known) == KEPT + 2
    client.wait_for(unknown)
    assert client.statuses[-1] == 7
    assert execs.find("running") is running


def test_a_name_is_that_of_the_last_one(make: Callable[[], Process]) -> None:
    execs, client = Execs(), Client()
    first, second = make(), make()
    execs.add("name", first)
    first.ended(0)
    client.wait_for(first)
    execs.add("name", second)
    assert execs.find("name") is second
    client.wait_for(first)  # somebody who has found it before
    for number in range(2 * KEPT):
        process = make()
        execs.add(f"exec-{number}", process)
        process.ended(0)
        client.wait_for(process)
    assert execs.find("name") is second
    execs.remove("name", second)
    assert execs.find("name") is None
