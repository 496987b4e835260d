# SPDX-License-Identifier: Apache-2.0
"""Input, output and terminals."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvtest import Pod, requirement
from kvtest.comparison import assert_equal
from kvtest.peers import pattern

PATIENCE = 10.0
MUCH = 30.0  # seconds that much output may take, on a machine that has other things to do
FOREVER = ["sleep", "1000"]

pytestmark = pytest.mark.capability("runtime")


@requirement("RUNTIME-STDIO-001")
def test_output_and_errors_are_kept_apart(shared_pod: Pod) -> None:
    container = shared_pod.run(["sh", "-c", "echo one; echo two >&2; echo three"])
    assert container.stdout.read_all(PATIENCE) == b"one\nthree\n"
    assert container.stderr.read_all(PATIENCE) == b"two\n"


@requirement("RUNTIME-STDIO-001")
@pytest.mark.parametrize("size", [0, 1, 65536, 8 << 20])
def test_output_arrives_whole(shared_pod: Pod, size: int) -> None:
    """As many bytes as were written, and the same ones: both sides compute their digest."""
    script = f"head -c {size} /dev/urandom > /tmp/data; cat /tmp/data; sha256sum < /tmp/data >&2"
    container = shared_pod.run(["sh", "-c", script])
    output = container.stdout.read_all(MUCH)
    assert len(output) == size
    assert container.stderr.read_all(PATIENCE).split()[0].decode() == hashlib.sha256(output).hexdigest()
    assert container.wait(PATIENCE).status == 0


@requirement("RUNTIME-STDIO-001")
def test_output_of_a_process_beside_the_first_arrives_whole(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    output = container.output_of(["sh", "-c", "yes kvtest | head -c 1000000"])
    assert_equal(output, (b"kvtest\n" * 142858)[:1000000])


@requirement("RUNTIME-STDIO-002")
@pytest.mark.parametrize("where", ["first", "beside"])
def test_input_arrives_and_is_ended(shared_pod: Pod, where: str) -> None:
    """By CloseIO and a client that closes its end meanwhile, for which a shim may wait with its answer."""
    data = pattern(1, 50_000)
    container = shared_pod.run(["cat"] if where == "first" else FOREVER, stdin=where == "first")
    process = container if where == "first" else container.exec(["cat"], stdin=True)
    process.stdin.write(data, PATIENCE)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(process.close_io, PATIENCE)
        process.stdin.close()
        closing.result()
    assert_equal(process.stdout.read_all(PATIENCE), data)
    assert process.wait(PATIENCE).status == 0


@requirement("RUNTIME-STDIO-005")
@pytest.mark.capability("runtime-resize")
def test_a_terminal_learns_its_new_size(shared_pod: Pod) -> None:
    script = ["sh", "-c", "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 1000 & wait; done"]
    container = shared_pod.run(script, terminal=True)
    beside = container.exec(script, terminal=True)
    for process, size in ((beside, (33, 77)), (container, (44, 111))):
        process.stdout.read_until(b"ready\r\n", PATIENCE)
        process.resize(*size)
        assert process.wait(PATIENCE).status == 0
        assert_equal(process.stdout.read_all(PATIENCE), b"ready\r\n%d %d\r\n" % size)


@requirement("RUNTIME-STDIO-003")
@pytest.mark.parametrize("where", ["first", "beside"])
def test_a_process_can_have_a_terminal(shared_pod: Pod, where: str) -> None:
    script = ["sh", "-c", "test -t 0 && test -t 1 && echo terminal"]
    container = shared_pod.run(script if where == "first" else FOREVER, terminal=where == "first")
    process = container if where == "first" else container.exec(script, terminal=True)
    assert process.stdout.read_all(PATIENCE) == b"terminal\r\n"
    assert process.wait(PATIENCE).status == 0
