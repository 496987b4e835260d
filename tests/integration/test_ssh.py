# SPDX-License-Identifier: Apache-2.0
"""Suites on another machine over SSH: a real sshd, whose other side is this machine with a cache of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from attrs import frozen

from kvtest.deadline import Deadline
from kvtest.errors import HostError, HostLostError, MissingToolError
from kvtest.host import cargo
from kvtest.host.frames import Header
from kvtest.host.remote import RemoteHost
from kvtest.host.ssh import connect
from kvtest.host.ssh_address import SSHAddress
from kvtest.report import Outcome, Results
from kvtest.settings import Settings
from kvtest.vm.template_cache import template_cache
from tests.processes import children_of, wait_for_end, with_variable
from tests.sshd import Sshd, command_of, make_key, programs, sshd

MARK = "MARK_OF_A_TEST"
# Enough of them that something can happen in the middle.
CHOSEN = ["transport", "-k", "test_vsock_directions"]
# Seconds until nothing of a run may be left on a machine whose connection is cut, reports and guests' ends included.
BOUND = 25.0


@frozen
class Machine:
    """The other machine.

    Args:
        sshd: How it is reached.
        mark: What processes of its sessions have in their environment.
        first: What the first run there said, which had to bring everything.
    """

    sshd: Sshd
    mark: str
    first: subprocess.CompletedProcess[str]

    @contextlib.contextmanager
    def running(self, settings: Settings, directory: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start a run in a directory."""
        command = _command(self.sshd, settings, *words)
        environment = self.sshd.environment
        with (
            (directory / "stderr").open("wb") as errors,
            subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=errors) as process,
        ):
            yield process
            process.kill()  # harmless where it has ended

    def nothing_is_left(self) -> bool:
        """Wait until nothing of a run is left there; return whether that came."""
        return self.processes_end() and not list((self.sshd.cache / "runs").iterdir())

    def processes_end(self, besides: Sequence[int] = ()) -> bool:
        """Wait until no process of a session is left there but some; return whether that came."""
        deadline = Deadline(BOUND)
        while left := [pid for pid in with_variable(MARK, self.mark) if pid not in besides]:
            pidfds = []
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    pidfds.append(os.pidfd_open(pid))
            if not wait_for_end(pidfds, deadline):
                return False
        return True


def _command(sshd: Sshd, settings: Settings, *words: str, host: str | None = None) -> list[str]:
    command = [sys.executable, "-m", "kvtest", "run", *words, f"--host={host or sshd.host}"]
    return [*command, f"--cache={settings.cache}"]


def _run(sshd: Sshd, settings: Settings, directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(sshd, settings, *words),
        cwd=directory,
        env=sshd.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def machine(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    mark, base = uuid.uuid4().hex, tmp_path_factory.mktemp("machine")
    with sshd(base / "sshd", {MARK: mark}) as server:
        yield Machine(server, mark, _run(server, settings, base, *CHOSEN, "-k", "test_the_host_connects"))
        shutil.rmtree(template_cache(server.cache / "cache").directory, ignore_errors=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A machine that nothing was brought to."""
    with sshd(tmp_path_factory.mktemp("server") / "sshd") as server:
        yield server


def _address(server: Sshd) -> SSHAddress:
    return SSHAddress.of(server.host, server.home / ".ssh/id_ed25519", server.home / ".ssh/known_hosts")


def _read_until(process: subprocess.Popen[bytes], text: bytes) -> bytes:
    """Read what a process says up to a line that has some text."""
    assert process.stdout is not None
    said = b""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(said.decode())


# --- Runs


def test_a_run_there_is_a_run_here(machine: Machine, settings: Settings, tmp_path: Path) -> None:
    assert machine.first.returncode == 0, machine.first.stdout + machine.first.stderr
    assert "127.0.0.1: bringing " in machine.first.stderr
    assert "brought here" in machine.first.stdout  # the template, as QEMU is the same

    with machine.running(settings, tmp_path, *CHOSEN) as process:
        said = _read_until(process, b" PASSED ")
        assert process.poll() is None, "the first result came with the last"
        assert process.stdout is not None
        said += process.stdout.read()
        assert process.wait(60) == 0, said.decode() + (tmp_path / "stderr").read_text()
    assert "bringing" not in (tmp_path / "stderr").read_text(), "something was brought again"
    lines = said.decode().splitlines()
    assert all(line.startswith(("127.0.0.1: ", "host: ")) for line in lines)
    assert any(line.startswith("127.0.0.1: suites/transport/test_vsock_directions.py::") for line in lines)

    results = Results.read(tmp_path / "kvtest-results/results.jsonl")
    assert results.complete
    assert results.run.properties["host"] == machine.sshd.host
    assert {test.outcome for test in results.tests} == {Outcome.PASSED}
    assert len(results.tests) > 2
    for test in results.tests:
        artifacts = Path(test.properties["artifacts"])
        assert artifacts.parent == tmp_path / "kvtest-results/artifacts"
        assert (artifacts / "guest/qemu.sh").is_file()
    junit = (tmp_path / "kvtest-results/junit.xml").read_text()
    assert junit.count("<testcase") == len(results.tests)
    assert str(machine.sshd.cache / "runs") not in junit
    assert machine.nothing_is_left()


def test_the_verdict_of_a_run_there_is_ours(machine: Machine, settings: Settings, tmp_path: Path) -> None:
    completed = _run(machine.sshd, settings, tmp_path, "transport", "-k", "no_test_has_that_name")
    assert completed.returncode == 2, completed.stdout + completed.stderr
    assert "there are no tests in what was selected" in completed.stdout


def test_a_cut_connection_keeps_what_had_come(machine: Machine, settings: Settings, tmp_path: Path) -> None:
    with machine.running(settings, tmp_path, *CHOSEN) as process:
        _read_until(process, b" PASSED ")
        results = tmp_path / "kvtest-results/results.jsonl"
        _read_until(process, b" PASSED ")  # the first one is over
        for pid in machine.sshd.session():
            os.kill(pid, signal.SIGKILL)
        assert process.wait(60) == 2
    stderr = (tmp_path / "stderr").read_text()
    assert "kvtest: the connection to 127.0.0.1 is lost: " in stderr
    read = Results.read(results)
    assert read.tests
    assert not read.complete
    assert f"{len(read.tests)} test" in stderr
    missing = {test.id for test in read.run.plan.tests if not test.left_out and not test.not_applicable} - {
        test.id for test in read.tests
    }
    assert f"{len(missing)} tests had not: suites/transport/" in stderr
    assert "no, the run was interrupted" in (tmp_path / "kvtest-results/junit.xml").read_text()
    assert machine.nothing_is_left()


def test_an_interrupt_ends_the_run_there_in_order(machine: Machine, settings: Settings, tmp_path: Path) -> None:
    with machine.running(settings, tmp_path, *CHOSEN) as process:
        _read_until(process, b" PASSED ")
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        said = process.stdout.read().decode()
        assert process.wait(60) == 2, said
    assert "the run was interrupted" in said
    read = Results.read(tmp_path / "kvtest-results/results.jsonl")
    assert read.tests
    assert not read.complete
    assert list((tmp_path / "kvtest-results/artifacts").iterdir())
    assert machine.nothing_is_left()


def test_nothing_is_left_there_when_we_are_killed(machine: Machine, settings: Settings, tmp_path: Path) -> None:
    with machine.running(settings, tmp_path, *CHOSEN) as process:
        _read_until(process, b" PASSED ")
        process.kill()
        process.wait(60)
    assert machine.nothing_is_left()


def test_nothing_is_left_there_when_our_part_there_is_killed(
    machine: Machine, settings: Settings, tmp_path: Path
) -> None:
    with machine.running(settings, tmp_path, *CHOSEN) as process:
        _read_until(process, b" PASSED ")
        ours = [pid for pid in with_variable(MARK, machine.mark) if b"sys.stdin.buffer.read" in command_of(pid)]
        assert len(ours) == 1
        # One that stands still would not find out by itself that nobody listens.
        (run,) = children_of(ours[0])
        os.kill(run, signal.SIGSTOP)
        os.kill(ours[0], signal.SIGKILL)
        assert process.wait(60) == 2
    if not (ended := machine.processes_end()):
        os.kill(run, signal.SIGKILL)
    assert ended
    (left,) = (machine.sshd.cache / "runs").iterdir()
    RemoteHost(_address(machine.sshd), tmp_path).close()
    assert not left.exists()


def test_a_host_that_is_not_there_takes_nothing_from_the_others(
    machine: Machine, settings: Settings, tmp_path: Path
) -> None:
    nobody = "ssh://root@127.0.0.1:1"
    done = _run(machine.sshd, settings, tmp_path, *CHOSEN, "-k", "test_the_host_connects", "--host", nobody)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"kvtest: {nobody}: " in done.stderr
    read = Results.read(tmp_path / "kvtest-results/results.jsonl")
    assert [test.outcome for test in read.tests] == [Outcome.PASSED]
    assert read.tests[0].id.endswith(f"-{machine.sshd.host}]")
    assert not read.complete
    assert (tmp_path / "kvtest-results/junit.xml").is_file()
    assert "1 passed" in done.stdout.rpartition("its results are in")[2]


def test_both_ends_notice_silence(machine: Machine, tmp_path: Path) -> None:
    address = _address(machine.sshd)
    stopped: list[int] = []

    patience: list[Deadline] = []

    def stop(_said: bytes) -> None:
        if not stopped:
            patience.append(Deadline(BOUND))
            stopped.extend(machine.sshd.session())
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)

    with RemoteHost(address, tmp_path, silence=4.0) as host:
        host.bring([cargo.site()])
        with pytest.raises(HostLostError, match=r"it has said nothing for 4 s"):
            host.run(["transport", "--accelerator=tcg"], stop)
        assert not patience[0].expired
    assert machine.processes_end(besides=stopped), "the run goes on with nobody who listens"
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)


def test_signs_of_life_do_not_disturb_what_is_brought(server: Sshd, tmp_path: Path) -> None:
    with RemoteHost(_address(server), tmp_path) as host, pytest.MonkeyPatch.context() as patch:
        send = host._link.send

        def send_with_sign_of_life(header: Header, payload: bytes = b"", *, more: bool = False) -> None:
            send({"ping": 1})
            send(header, payload, more=more)

        patch.setattr(host._link, "send", send_with_sign_of_life)
        assert host.bring([cargo.site()]) > 1000
        assert host.bring([cargo.site()]) == 0
    assert len(list((server.cache / "sites").iterdir())) == 1


# --- Machines that cannot be used


def test_no_such_machine() -> None:
    address = SSHAddress.of("ssh://no-such-machine.invalid")
    with pytest.raises(HostError, match=r"could not find a machine no-such-machine.invalid: "):
        connect(address)


def test_nobody_listens(settings: Settings, server: Sshd, tmp_path: Path) -> None:
    command = _command(server, settings, "transport", host="ssh://127.0.0.1:1")
    completed = subprocess.run(
        command, cwd=tmp_path, env=server.environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 2
    expected = "kvtest: ssh://127.0.0.1:1: could not connect to 127.0.0.1 port 1: Connection refused\n  hint: "
    assert expected in completed.stderr


def test_a_key_that_is_not_let_in(server: Sshd, tmp_path: Path) -> None:
    make_key(tmp_path / "wrong")
    address = SSHAddress.of(server.host, tmp_path / "wrong", server.home / ".ssh/known_hosts")
    with pytest.raises(HostError, match="lets nobody in as") as refused:
        connect(address)
    assert f"({tmp_path / 'wrong'})" in refused.value.message
    assert f"ssh-copy-id -p {server.port} " in str(refused.value.hint)


def test_what_answers_is_no_sshd(server: Sshd, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        pool.submit(answer)
        host = f"--host=ssh://127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-m", "kvtest", "run", "transport", host]
        completed = subprocess.run(
            command, cwd=tmp_path, env=server.environment, capture_output=True, text=True, check=False
        )
    assert completed.returncode == 2
    assert completed.stderr.startswith("kvtest: ssh://127.0.0.1:")
    assert "no connection with 127.0.0.1 port " in completed.stderr
    assert len(completed.stderr.splitlines()) == 2


def test_a_key_that_is_not_there(server: Sshd, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=f"there is no key {tmp_path}/key"):
        connect(SSHAddress.of(server.host, tmp_path / "key"))


def test_somebody_without_keys(server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    address = SSHAddress.of(server.host, known_hosts=server.home / ".ssh/known_hosts")
    with pytest.raises(HostError, match=r"lets nobody in as \w+ with the keys that were tried \(there are none\)"):
        connect(address)


def test_an_unknown_machine_is_refused_and_the_hint_makes_it_known(server: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    address = SSHAddress.of(server.host, server.home / ".ssh/id_ed25519", known)
    with pytest.raises(HostError, match=r"the key of \[127.0.0.1\]:\d+ is in none of ") as refused:
        connect(address)
    listed = subprocess.run(["ssh-keygen", "-lf", server.base / "host_ed25519.pub"], capture_output=True, check=True)
    assert listed.stdout.decode().split()[1] in refused.value.message
    command = str(refused.value.hint).partition("add it: ")[2]
    subprocess.run(command, shell=True, check=True, stderr=subprocess.DEVNULL)
    connect(address).close()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_machine_with_another_key_is_refused(server: Sshd, tmp_path: Path, kind: str) -> None:
    make_key(tmp_path / "other", kind)
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{server.port} {(tmp_path / 'other.pub').read_text()}")
    with pytest.raises(HostError, match=rf"has changed: it shows \S*{kind}\S* SHA256:") as refused:
        connect(SSHAddress.of(server.host, server.home / ".ssh/id_ed25519", known))
    assert "somebody else may be answering in its place" in str(refused.value.hint)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_machine_is_known_by_any_of_its_keys(server: Sshd, tmp_path: Path, kind: str) -> None:
    make_key(tmp_path / "former", kind)
    known = tmp_path / "known_hosts"
    keys = [tmp_path / "former.pub", server.base / f"host_{kind}.pub"]
    lines = [f"somebody,[127.0.0.1]:{server.port} {key.read_text()}" for key in keys]
    known.write_text("".join(lines))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, stderr=subprocess.DEVNULL)
    known.write_text(f"@cert-authority * ssh-ed25519 AAAA\nbroken\nx ssh-ed25519 A\n{known.read_text()}")
    connect(SSHAddress.of(server.host, server.home / ".ssh/id_ed25519", known)).close()


def test_a_revoked_key_is_refused(server: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    line = (server.home / ".ssh/known_hosts").read_text()
    known.write_text(f"{line}@revoked * {line.partition(' ')[2]}")
    with pytest.raises(HostError, match="is revoked in "):
        connect(SSHAddress.of(server.host, server.home / ".ssh/id_ed25519", known))


@pytest.fixture
def machine_with(tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    """Run machines that lack something."""
    with contextlib.ExitStack() as opened:
        yield lambda environment, **given: opened.enter_context(sshd(tmp_path / "sshd", environment, **given))


def test_a_machine_without_python(machine_with: Callable[..., Sshd], tmp_path: Path) -> None:
    server = machine_with({"PATH": str(programs(tmp_path / "bin", "sh"))})
    with pytest.raises(MissingToolError, match=r"127.0.0.1 has no Python") as refused:
        RemoteHost(_address(server), tmp_path)
    assert f"install --no-install-recommends python3.{sys.version_info[1]}" in str(refused.value.hint)


def test_a_machine_with_another_python(machine_with: Callable[..., Sshd], tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", "sh")
    python = path / "python3"
    older = "import sys; sys.version_info = (3, 9, 2); sys.version = '3.9.2 (main)'; sys.argv.pop(0)"
    # The real one, in all but what it says of itself.
    python.write_text(f'#!/bin/sh\nshift 3\nexec {sys.executable} -I -S -c "{older}; exec(sys.argv[0])" "$@"\n')
    python.chmod(0o755)
    server = machine_with({"PATH": str(path)})
    with pytest.raises(MissingToolError, match=r"127.0.0.1 has Python 3.9.2, and what kvtest brings is built for 3"):
        RemoteHost(_address(server), tmp_path)


def test_a_machine_without_qemu(machine_with: Callable[..., Sshd], tmp_path: Path) -> None:
    server = machine_with({"PATH": str(programs(tmp_path / "bin", "sh", "python3"))})
    with pytest.raises(MissingToolError, match=r"127.0.0.1 has no QEMU \(qemu-system-x86_64 was") as refused:
        RemoteHost(_address(server), tmp_path)
    assert "apt-get install --no-install-recommends qemu-system-x86" in str(refused.value.hint)
    assert list((server.cache / "runs").iterdir()) == []


def test_a_login_that_talks(machine_with: Callable[..., Sshd], tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("echo Welcome to this machine\n")
    server = machine_with({"BASH_ENV": str(tmp_path / "profile")})
    with RemoteHost(_address(server), tmp_path) as host:
        assert host.there.qemu is not None


def test_a_machine_without_room(machine_with: Callable[..., Sshd], tmp_path: Path) -> None:
    (tmp_path / "sshd/there").mkdir(parents=True)
    mount = f'mount -t tmpfs -o size=4m none {tmp_path / "sshd/there"} && exec "$@"'
    wrapper = ("unshare", "--mount", "sh", "-c", mount, "sh")
    if subprocess.run([*wrapper, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    server = machine_with({}, wrapper=wrapper)
    with (
        RemoteHost(_address(server), tmp_path) as host,
        pytest.raises(HostError, match=r"not enough room on 127.0.0.1: \d+ MiB are to be brought, and 4 MiB"),
    ):
        host.bring([cargo.site()])
    # What is found out only while it is written.
    with RemoteHost(_address(server), tmp_path) as host, pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvtest.host.remote._ROOM", -(1 << 40))
        with pytest.raises(HostError, match=r"not enough room on 127.0.0.1: .*: No space left on device"):
            host.bring([cargo.site()])


def test_what_is_not_brought_is_refused(settings: Settings, server: Sshd, tmp_path: Path) -> None:
    completed = _run(server, settings, tmp_path, "agent", "--agent=/bin/true")
    assert completed.returncode == 2
    assert f"--agent: /bin/true is on this machine, and kvtest does not bring it to {server.host}" in completed.stderr
