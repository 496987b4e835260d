# SPDX-License-Identifier: Apache-2.0
"""Clients that come and go beside others: to the output of a process, to a shim, and to the agent of a pod."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvtest import Container, Pod, Status, requirement
from kvtest.deadline import Deadline
from kvtest.errors import DeadlineExceededError
from kvtest.runtime.footprint import Footprint
from kvtest.runtime.neighbours import undisturbed
from kvtest.runtime.shim import connect_again

PATIENCE = 10.0
FOREVER = ["sleep", "1000"]
AGAIN = 3
SPARE = 4  # descriptors that a shim has left
CLIENTS = 3
VANISHING = 8
SLACK = 3  # threads that may come for other reasons than a client, such as those of Go's scheduler
ONCE = 0.5  # seconds in which a shim would have answered
ECHO = "while read line; do for n in 1 2 3 4; do echo $line-$n; done; echo $line >&2; done"

pytestmark = pytest.mark.capability("runtime")


@requirement("RUNTIME-STDIO-004")
def test_a_client_that_comes_back_has_missed_nothing(shared_pod: Pod) -> None:
    container = shared_pod.run(["sh", "-c", ECHO], stdin=True)
    for turn in range(AGAIN):
        container.stdout.detach()
        container.stdin.write(b"%d\n" % turn, PATIENCE)
        container.stderr.read_until(b"%d\n" % turn, PATIENCE)  # written after the output that nobody reads
        container.stdout.attach()
        container.stdout.read_until(b"%d-4\n" % turn, PATIENCE)
    assert container.stdout.seen == b"".join(b"%d-%d\n" % (turn, n) for turn in range(AGAIN) for n in range(1, 5))


@requirement("RUNTIME-STDIO-007")
def test_the_streams_of_a_process_are_told(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER, stdin=True)
    processes = [container, container.exec(FOREVER, terminal=True), container.exec(FOREVER)]
    assert [process.snapshot().streams for process in processes] == [process.streams.told for process in processes]


@requirement("RUNTIME-STDIO-008")
def test_an_input_ends_with_nothing_else(shared_pod: Pod) -> None:
    container = shared_pod.run(["cat"], stdin=True)
    beside = container.exec(["cat"], stdin=True)
    beside.stdin.write(b"beside\n", PATIENCE)
    beside.stdout.read_until(b"beside\n", PATIENCE)
    beside.stdin.close()
    # Which takes longer than it would take the end of an input to arrive.
    assert container.output_of(["echo", "here"]) == b"here\n"
    assert beside.state() is Status.RUNNING
    beside.close_io()
    assert beside.wait(PATIENCE).status == 0
    assert beside.stdout.read_all(PATIENCE) == b"beside\n"
    assert container.state() is Status.RUNNING
    container.stdin.write(b"first\n", PATIENCE)
    assert container.stdout.read_until(b"\n", PATIENCE) == b"first\n"


@requirement("RUNTIME-STDIO-006")
def test_output_that_nobody_reads_holds_up_nobody(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    writer = container.exec(["sh", "-c", "read word; exec yes"], stdin=True)
    writer.stdout.narrow()
    writer.stdin.write(b"begin\n", PATIENCE)
    writer.stdout.await_full(PATIENCE)
    assert container.output_of(["echo", "here"]) == b"here\n"
    assert writer.state(shared_pod.profile.call_bound) is Status.RUNNING
    writer.kill()
    shared_pod.events.expect("TaskExit", container.id, process=writer.name, status=128 + 9, within=PATIENCE)
    assert writer.wait(PATIENCE).status == 128 + 9
    # What waited is there for whoever comes, and then the end.
    assert set(writer.stdout.read_all(PATIENCE).splitlines()[:-1]) == {b"y"}


@contextlib.contextmanager
def few_descriptors(pid: int) -> Iterator[int]:
    """Let a process have few descriptors more than it has, and return how many that are."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    limit = max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1 + SPARE
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield limit
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has not lived through that
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@requirement("RUNTIME-CLIENTS-004")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_a_shim_at_its_limit_of_descriptors_goes_on(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    with contextlib.ExitStack() as opened:
        limit = opened.enter_context(few_descriptors(shared_pod.shim.pid))
        idle = [opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) for _ in range(limit)]
        for number, client in enumerate(idle):  # more than there are descriptors for
            client.settimeout(PATIENCE)
            try:
                client.connect(str(shared_pod.address))
            except TimeoutError:
                pytest.fail(f"the shim takes {number} clients, and lets no other wait until these have gone")
        late = connect_again(shared_pod.address)
        opened.callback(late.service.client.close)
        with pytest.raises(DeadlineExceededError):
            late.state(container.id, "", ONCE)
        assert container.state(shared_pod.profile.call_bound) is Status.RUNNING
        for client in idle:
            client.close()
        assert late.state(container.id, "", PATIENCE) is Status.RUNNING


def assert_nothing_kept(pod: Pod, container: Container, before: Footprint) -> None:
    """See that a shim has no more descriptors and threads than before, as soon as it has done what it does."""
    deadline = Deadline(pod.profile.cleanup_bound)
    while True:
        after = Footprint.of(pod.shim.pid)
        descriptors, threads = after.descriptors - before.descriptors, after.threads - before.threads
        if descriptors <= 0 and threads <= SLACK:
            return
        assert not deadline.expired, f"the shim has kept {descriptors} descriptors and {threads} threads"
        assert container.state(PATIENCE) is Status.RUNNING  # which it does not answer before its turn


@requirement("RUNTIME-CLIENTS-002")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_a_client_that_vanishes_while_it_waits_leaves_nothing(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    waiting = container.waiting(PATIENCE)
    assert container.state(PATIENCE) is Status.RUNNING  # so that the wait has arrived
    before = Footprint.of(shared_pod.shim.pid)
    for _ in range(VANISHING):
        client = connect_again(shared_pod.address)
        client.waiting(container.id, "", PATIENCE)
        assert client.state(container.id, "", PATIENCE) is Status.RUNNING
        client.service.client.close()
    assert_nothing_kept(shared_pod, container, before)
    assert container.output_of(["echo", "here"], shared_pod.profile.call_bound) == b"here\n"
    container.kill()
    assert waiting.result(PATIENCE).status == 137


@requirement("RUNTIME-EXEC-005")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_processes_leave_nothing_with_the_shim(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    assert container.output_of(["echo", "here"]) == b"here\n"  # what is made once is there from now on
    before = Footprint.of(shared_pod.shim.pid)
    for _ in range(SLACK + 1):
        assert container.output_of(["echo", "here"]) == b"here\n"
    assert_nothing_kept(shared_pod, container, before)


@requirement("RUNTIME-EXEC-005")
@pytest.mark.capability("runtime-group")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_containers_leave_nothing_with_the_shim_of_others(shared_pod: Pod) -> None:
    def live() -> None:
        other = shared_pod.run(["cat"], stdin=True)
        other.kill()
        other.wait(PATIENCE)
        other.delete()
        other.stdin.close()  # as clients do; runc's shim has its end open as long as they

    container = shared_pod.run(FOREVER)
    live()  # what is made once is there from now on
    before = Footprint.of(shared_pod.shim.pid)
    for _ in range(SLACK + 1):
        live()
    assert_nothing_kept(shared_pod, container, before)


@requirement("RUNTIME-AGENT-001")
@pytest.mark.capability("runtime-vm", "runtime-agent")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_an_agent_has_other_clients_beside_the_shim(shared_pod: Pod) -> None:
    def ask(container: str, number: int) -> tuple[str, bytes, int, bool]:
        with shared_pod.agent(PATIENCE) as agent:
            theirs = agent.container(container)
            process = theirs.execute(f"beside-{number}", ["sh", "-c", f"echo {number}; exit {number}"])
            output, status = process.read_all(), process.wait()
            return agent.check(), output, status, theirs.statistics().cgroup_stats.pids_stats.current > 0

    with undisturbed(shared_pod) as container, ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(ask, container.id, number) for number in range(CLIENTS)]
        assert container.output_of(["echo", "here"]) == b"here\n"
        answers = [one.result() for one in asked]
        assert answers == [("SERVING", b"%d\n" % number, number, True) for number in range(CLIENTS)]
        told = {event.process for event in shared_pod.events.of(container.id)}
        assert [name for name in told if name.startswith("beside")] == []
