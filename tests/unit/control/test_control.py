# SPDX-License-Identifier: Apache-2.0
"""The control daemon, run on this machine as a host runs it: the code is that of guests."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kvtest.control import Steps
from kvtest.deadline import Deadline
from kvtest.errors import ConnectionLostError, DeadlineExceededError, GuestError, RemoteFunctionError, StateError
from kvtest.host.local import LocalHost

LIMIT = 7


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHost]:
    host = LocalHost(tmp_path_factory.mktemp("host"))
    yield host
    host.close()


@pytest.fixture
def host(shared: LocalHost) -> Iterator[LocalHost]:
    yield shared
    shared.tidy()


# --- Commands


def test_streams_and_exit_code(host: LocalHost) -> None:
    done = host.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.stdout, done.stderr, done.code, done.signal) == (b"out\n", b"err\n", 3, None)
    with pytest.raises(GuestError, match="exited with 3: err"):
        done.check()


def test_a_signal(host: LocalHost) -> None:
    done = host.run(["sh", "-c", "kill -TERM $$"])
    assert (done.code, done.signal) == (None, signal.SIGTERM)


def test_input_and_environment(host: LocalHost) -> None:
    data = os.urandom(3 << 20)
    assert host.run(["cat"], input=data).stdout == data
    assert host.run(["sh", "-c", "echo $COLOUR"], environment={"COLOUR": "green"}).text == "green"
    assert host.run(["cat"]).stdout == b""


def test_a_command_that_does_not_read_its_input(host: LocalHost) -> None:
    assert host.run(["true"], input=bytes(3 << 20)).code == 0


def test_a_missing_command(host: LocalHost) -> None:
    with pytest.raises(GuestError, match="could not run 'no-such-command': No such file"):
        host.run(["no-such-command"])


def test_much_output_waits_for_whoever_takes_it(host: LocalHost) -> None:
    size = 50 << 20
    done = host.run(["head", "-c", str(size), "/dev/zero"], deadline=60)
    assert len(done.stdout) == size


def test_output_comes_while_the_command_runs(host: LocalHost) -> None:
    with host.start_process(["sh", "-c", "echo ready; cat"], with_input=True) as process:
        output = process.output()
        assert next(output) == ("stdout", b"ready\n")
        process.write(b"typed\n")
        assert next(output) == ("stdout", b"typed\n")
        process.close_input()
        assert list(output) == []
        assert process.code == 0


def test_a_deadline_kills_the_command(host: LocalHost, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    with pytest.raises(DeadlineExceededError):
        host.run(["sh", "-c", f"echo $$ >{mark}; exec cat /dev/zero >/dev/null"], deadline=0.5)
    assert not Path(f"/proc/{mark.read_text().strip()}").exists()


def test_a_terminal_has_a_size_that_changes(host: LocalHost) -> None:
    command = "while stty size; do read line; done"
    with host.start_process(["sh", "-c", command], terminal=(33, 77)) as process:
        seen = b""
        for _, data in process.output():
            seen += data
            if seen.endswith(b"33 77\r\n"):
                process.resize(44, 99)
                process.write(b"\n")
            if seen.endswith(b"44 99\r\n"):
                break


def test_a_kill_reaches_the_process_group(host: LocalHost) -> None:
    with host.start_process(["sh", "-c", "sleep 1000 & echo $!; wait"]) as process:
        child = int(next(process.output())[1])
        process.kill()
        assert process.wait().signal is signal.SIGKILL
    pidfd_gone(child)


def pidfd_gone(pid: int) -> None:
    """Wait until a process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(descriptor) as stream:
        import select

        assert select.select([stream], [], [], 20)[0]


def test_tidy_ends_all(host: LocalHost) -> None:
    process = host.start_process(["sleep", "1000"])
    assert host.tidy() == 1
    with pytest.raises(GuestError, match="no process"):
        process.wait()
    assert host.tidy() == 0


def test_commands_run_at_once(host: LocalHost) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda number: host.run(["echo", str(number)]), range(40)))
    assert [command.text for command in done] == [str(number) for number in range(40)]


# --- Functions


def plain(a: int, b: bytes) -> list[object]:
    return [a + LIMIT, helper(b), os.getpid()]


def helper(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def steps(first: str) -> Steps:
    second = yield first
    third = yield [first, second]
    return [first, second, third]


def fails() -> None:
    raise ValueError("on purpose")  # the traceback names this line


def test_a_function_with_what_it_needs_of_its_module(host: LocalHost) -> None:
    total, digest, pid = host.call(plain, 3, b"\0\xff")
    assert (total, digest) == (3 + LIMIT, hashlib.sha256(b"\0\xff").hexdigest())
    assert pid != os.getpid()


def test_a_function_step_by_step(host: LocalHost) -> None:
    with host.start(steps, "a") as task:
        assert task.ready == "a"
        assert task.send(b"\x80") == ["a", b"\x80"]
        task.resume({"c": None})
        assert task.answer() == ["a", b"\x80", {"c": None}]
        assert task.finished
        with pytest.raises(StateError, match="has finished"):
            task.send()


def test_an_exception_names_file_and_line_of_the_host(host: LocalHost) -> None:
    with pytest.raises(RemoteFunctionError, match="fails raised ValueError: on purpose") as caught:
        host.call(fails)
    line = fails.__code__.co_firstlineno + 1
    assert f'test_control.py", line {line}, in fails' in caught.value.traceback
    assert 'raise ValueError("on purpose")  # the traceback names this line' in caught.value.traceback


def exits() -> None:
    os._exit(5)


def test_a_function_whose_process_ends(host: LocalHost) -> None:
    with pytest.raises(GuestError, match="the process of exits exited with status 5"):
        host.call(exits)


def returns_nonsense() -> object:
    return object()


def test_a_result_that_cannot_cross(host: LocalHost) -> None:
    with pytest.raises(RemoteFunctionError, match="a object cannot cross"):
        host.call(returns_nonsense)


class Thing:
    pass


THING = Thing()


def uses_a_thing() -> str:
    return str(THING)


def uses_pytest() -> str:
    return pytest.__version__


def test_what_cannot_be_sent_is_named(host: LocalHost) -> None:
    local = 5

    def captures() -> int:
        return local

    with pytest.raises(GuestError, match="uses_a_thing uses THING, a Thing of the host"):
        host.call(uses_a_thing)
    with pytest.raises(GuestError, match="uses_pytest uses the module pytest"):
        host.call(uses_pytest)
    with pytest.raises(GuestError, match="captures captures local"):
        host.call(captures)
    with pytest.raises(GuestError, match="a Thing cannot cross"):
        host.call(plain, THING, b"")


def blocks() -> Steps:
    yield os.getpid()
    signal.pause()


def test_closing_a_task_kills_it(host: LocalHost) -> None:
    with host.start(blocks) as task:
        pid = int(task.ready)
        task.resume()
    pidfd_gone(pid)


def test_a_step_that_takes_long_holds_up_nobody(host: LocalHost) -> None:
    with host.start(blocks) as task:
        task.resume()
        assert host.run(["echo", "here"]).text == "here"
        with pytest.raises(DeadlineExceededError):
            task.answer(Deadline(0.05))


# --- Files


def test_files(host: LocalHost, tmp_path: Path) -> None:
    path, data = tmp_path / "a file ß", os.urandom(5 << 20)
    host.write_file(str(path), data, mode=0o600)
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o600
    assert host.read_file(str(path)) == data
    host.write_file(str(path), b"short")
    assert host.read_file(str(path)) == b"short"
    with pytest.raises(GuestError, match="No such file"):
        host.read_file(str(tmp_path / "missing"))
    assert host.read_file("/proc/sys/kernel/ostype") == b"Linux\n"


# --- The channel


def test_ping(host: LocalHost) -> None:
    assert host.ping()["release"] == os.uname().release


def test_a_daemon_that_dies_ends_every_call(tmp_path: Path) -> None:
    host = LocalHost(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        process = host.start_process(["sleep", "1000"])
        waiting = pool.submit(process.wait)
        host._process.kill()
        with pytest.raises(ConnectionLostError):
            waiting.result()
    host.close()


def test_garbage_on_the_channel_is_told(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    command = ["python3", "-m", "kvtest.guest.daemon", str(theirs.fileno())]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with ours, theirs:
        daemon = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, env=environment)
        ours.sendall(b"GET / HTTP/1.1\r\n\r\n")
        _, said = daemon.communicate(timeout=20)
    assert daemon.returncode == 1
    assert b"control daemon: a frame of" in said
