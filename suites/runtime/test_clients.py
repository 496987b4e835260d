# SPDX-License-Identifier: Apache-2.0
"""Many processes, many clients, many pods at the same time."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvtest import Container, Pod, Pods, Status, requirement
from kvtest.comparison import assert_equal
from kvtest.errors import RPCError
from kvtest.runtime.shim import connect_again

PATIENCE = 20.0
ALL = 60.0  # for eight pods at once
FOREVER = ["sleep", "1000"]

pytestmark = pytest.mark.capability("runtime")


@requirement("RUNTIME-EXEC-001")
@pytest.mark.parametrize("count", [2, 8, 16])
def test_processes_have_their_own_output_and_status(shared_pod: Pod, count: int) -> None:
    container = shared_pod.run(FOREVER)

    def execute(number: int) -> tuple[bytes, int]:
        process = container.exec(["sh", "-c", f"yes {number:04} | head -c 100000; exit {number}"], within=PATIENCE)
        output = process.stdout.read_all(PATIENCE)
        return output, process.wait(PATIENCE).status

    with ThreadPoolExecutor(count) as pool:
        results = list(pool.map(execute, range(count)))
    assert_equal(results, [(b"%04d\n" % number * 20000, number) for number in range(count)])


@requirement("RUNTIME-EXEC-001")
def test_conversations_do_not_mix(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    processes = [container.exec(["cat"], stdin=True) for _ in range(6)]
    for turn in range(3):
        for number, process in enumerate(processes):
            process.stdin.write(b"%d says %d\n" % (number, turn), PATIENCE)
        for number, process in enumerate(processes):
            process.stdout.read_until(b"%d says %d\n" % (number, turn), PATIENCE)
    for number, process in enumerate(processes):
        assert process.stdout.seen == b"".join(b"%d says %d\n" % (number, turn) for turn in range(3))


@requirement("RUNTIME-EXEC-002")
@pytest.mark.parametrize("end", ["itself", "killed"])
def test_the_end_of_a_process_leaves_the_container_running(shared_pod: Pod, end: str) -> None:
    container = shared_pod.run(FOREVER)
    process = container.exec(["true"] if end == "itself" else FOREVER)
    if end == "killed":
        process.kill()
    process.wait(PATIENCE)
    process.delete()
    assert container.state() is Status.RUNNING
    assert container.output_of(["echo", "here"]) == b"here\n"


@requirement("RUNTIME-EXEC-003")
def test_a_program_that_does_not_exist_fails_to_start(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    process = container.exec(["no-such-program"], start=False)
    with pytest.raises(RPCError, match="no-such-program"):
        process.start()
    assert container.output_of(["echo", "here"]) == b"here\n"


@requirement("RUNTIME-EXEC-004")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_the_id_of_a_process_can_be_used_again(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    for status in (3, 4):
        process = container.exec(["sh", "-c", f"echo {status}; exit {status}"], name="again")
        assert process.stdout.read_all(PATIENCE) == b"%d\n" % status
        assert process.wait(PATIENCE).status == status
        assert process.delete().status == status


def _stays_responsive(pod: Pod, container: Container) -> None:
    bound = pod.profile.call_bound
    assert container.state(bound) is Status.RUNNING
    assert container.output_of(["echo", "here"], bound) == b"here\n"


@requirement("RUNTIME-CLIENTS-001")
@pytest.mark.parametrize("waiters", [1, 64])
def test_who_waits_stops_nobody(shared_pod: Pod, waiters: int) -> None:
    container = shared_pod.run(FOREVER)
    waiting = [container.waiting(PATIENCE) for _ in range(waiters)]
    _stays_responsive(shared_pod, container)
    container.kill()
    assert [pending.result(PATIENCE).status for pending in waiting] == [137] * waiters


@requirement("RUNTIME-CLIENTS-001")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_a_shim_has_many_clients(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    process = container.exec(FOREVER)
    bound = shared_pod.profile.call_bound
    clients = [connect_again(shared_pod.address) for _ in range(8)]
    waiting = [client.waiting(container.id, "", PATIENCE) for client in clients]
    beside = [client.waiting(container.id, process.name, PATIENCE) for client in clients]
    for client in clients:
        assert client.connect(container.id, bound).shim_pid == shared_pod.shim.pid
        for name in ("", process.name):
            assert client.state(container.id, name, bound) is Status.RUNNING
    process.kill()
    assert [pending.result(PATIENCE).status for pending in beside] == [137] * 8
    _stays_responsive(shared_pod, container)
    container.kill()
    assert [pending.result(PATIENCE).status for pending in waiting] == [137] * 8
    for client in clients:
        client.service.client.close()


@requirement("RUNTIME-CLIENTS-002")
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0\0\0", id="part of a frame"),
        pytest.param(b"\0\0\1\0\0\0\0\1\1\0half", id="half a request"),
        pytest.param(b"\xff" * 64, id="garbage"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
    ],
)
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_a_client_that_misbehaves_changes_nothing(shared_pod: Pod, sent: bytes) -> None:
    container = shared_pod.run(FOREVER)
    waiting = container.waiting(PATIENCE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(shared_pod.address))
        client.sendall(sent)
        _stays_responsive(shared_pod, container)
    _stays_responsive(shared_pod, container)
    container.kill()
    assert waiting.result(PATIENCE).status == 137


@requirement("RUNTIME-CLIENTS-003")
def test_pods_live_at_the_same_time(pods: Pods) -> None:
    def live(numbered: tuple[int, Pod]) -> tuple[bytes, int]:
        number, pod = numbered
        container = pod.run(["sh", "-c", f"echo pod {number}; exit {number}"], within=ALL)
        status = container.wait(ALL).status
        output = container.stdout.read_all(ALL)
        pod.events.expect("TaskExit", container.id, status=number, within=ALL)
        container.delete(ALL)
        return output, status

    started = pods.start_many(8, ALL)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(live, enumerate(started))) == [(b"pod %d\n" % number, number) for number in range(8)]
    for pod in started:
        assert {event.container for event in pod.events.of()} == {pod.id}
