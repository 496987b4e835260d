# SPDX-License-Identifier: Apache-2.0
"""What processes read and write."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvtest import Deadline, requirement
from kvtest.comparison import assert_equal
from kvtest.errors import ConnectionLostError, RPCError
from kvtest.peers import pattern
from kvtest.runtime.agent import Agent
from kvtest.runtime.agent_container import Container

pytestmark = pytest.mark.guest(image="agent", scope="module", vsock=True, serial_ports=["agent.channel.0"])

PATIENCE = 30.0
LARGE = 4 << 20
EVERY_BYTE = bytes(range(256)) * 16


def await_end(container: Container) -> None:
    """Wait for the end of all processes, in the container's statistics: WaitProcess may make an agent forget them.

    A process counts until somebody has taken its exit status from the kernel.
    """
    limit = Deadline(PATIENCE)
    while container.statistics(limit).cgroup_stats.pids_stats.current:
        assert not limit.expired, "the container has not ended"


@requirement("AGENT-STREAM-001")
def test_large_output_arrives_whole(agent: Agent) -> None:
    container = agent.run(["sh", "-c", f"yes 0123456789abcde | head -c {LARGE}"])
    assert_equal(container.read_all(), b"0123456789abcde\n" * (LARGE // 16))
    assert container.wait() == 0


@requirement("AGENT-STREAM-001")
def test_every_value_of_a_byte_passes_both_ways(agent: Agent) -> None:
    container = agent.run(["cat"])
    assert container.write(EVERY_BYTE) == len(EVERY_BYTE)
    container.close_input()
    assert_equal(container.read_all(), EVERY_BYTE)


@requirement("AGENT-STREAM-002")
def test_large_input_arrives_whole(agent: Agent) -> None:
    data = pattern(1, LARGE // 2)
    container = agent.run(["md5sum"])
    for offset in range(0, len(data), 1 << 20):
        piece = data[offset : offset + (1 << 20)]
        assert container.write(piece) == len(piece)
    container.close_input()
    assert container.read_all().split()[0].decode() == hashlib.md5(data, usedforsecurity=False).hexdigest()


@requirement("AGENT-STREAM-002")
def test_more_than_a_pipe_holds_goes_round(agent: Agent) -> None:
    data = pattern(2, 1 << 20)
    container = agent.run(["cat"])
    with ThreadPoolExecutor(1) as sender:
        sent = sender.submit(container.write, data)
        received = bytearray()
        while len(received) < len(data):
            received += container.read()
        assert sent.result() == len(data)
    assert_equal(bytes(received), data)


@requirement("AGENT-STREAM-003")
def test_the_end_of_the_input_is_seen(agent: Agent) -> None:
    container = agent.run(["sh", "-c", "cat >/dev/null; echo over"])
    container.close_input()
    assert container.read_all() == b"over\n"


@requirement("AGENT-STREAM-003")
def test_nothing_is_written_after_the_end_of_the_input(agent: Agent) -> None:
    container = agent.run(["sleep", "1000"])
    container.close_input()
    with pytest.raises(RPCError):
        container.write(b"too late")
    assert agent.lost is None


@requirement("AGENT-STREAM-004")
def test_the_two_outputs_are_apart(agent: Agent) -> None:
    container = agent.run(["sh", "-c", "for i in 1 2 3; do echo out $i; echo err $i >&2; done"])
    assert container.read_all("stderr") == b"err 1\nerr 2\nerr 3\n"
    assert container.read_all("stdout") == b"out 1\nout 2\nout 3\n"


@requirement("AGENT-STREAM-009")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_read_at_the_end_does_not_wait(agent: Agent, stream: str) -> None:
    container = agent.run(["true"])
    await_end(container)
    assert container.read_all(stream) == b""
    assert container.wait() == 0


@requirement("AGENT-STREAM-006")
def test_output_waits_for_its_reader(agent: Agent) -> None:
    container = agent.run(["sh", "-c", "echo early; exit 4"])
    await_end(container)
    assert container.read_all() == b"early\n"
    assert container.wait() == 4


@requirement("AGENT-STREAM-007")
def test_a_read_takes_no_more_than_it_was_asked_for(agent: Agent) -> None:
    container = agent.run(["echo", "abcdefgh"])  # with one write: the bytes come all at once
    assert [container.read(size=3) for _ in range(3)] == [b"abc", b"def", b"gh\n"]


@requirement("AGENT-STREAM-008")
def test_a_process_that_ends_lets_go_of_its_writers(agent: Agent) -> None:
    container = agent.run(["sleep", "1000"])
    # More than a pipe holds; and an answer that its time is up would be none.
    stuck = container.begin("WriteStdin", 2 * PATIENCE, data=bytes(1 << 20))
    container.kill()
    with pytest.raises(RPCError) as refused:
        stuck.result(PATIENCE)
    assert not isinstance(refused.value, ConnectionLostError)
