# SPDX-License-Identifier: Apache-2.0
"""Suites on another machine over SSH: a real sshd, whose other side is this machine with a cache of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from attrs import frozen

from kvtest.deadline import Deadline
from kvtest.errors import HostLostError
from kvtest.host import cargo
from kvtest.host.frames import Header
from kvtest.host.remote import RemoteHost
from kvtest.report import Outcome, Results
from kvtest.resources import package_directory
from kvtest.runtime.installation import find_program
from kvtest.runtime.profile import load as load_profile
from kvtest.settings import Settings
from kvtest.vm.template_cache import template_cache
from tests.integration.test_runtime import needs_root
from tests.processes import children_of, wait_for_end, wait_for_file, with_variable
from tests.sshd import Sshd, command_of, run_command, run_on, sshd

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
        command = run_command(self.sshd, settings, *words)
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


@pytest.fixture(scope="module")
def machine(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    mark, base = uuid.uuid4().hex, tmp_path_factory.mktemp("machine")
    with sshd(base / "sshd", {MARK: mark}) as server:
        yield Machine(server, mark, run_on(server, settings, base, *CHOSEN, "-k", "test_the_host_connects"))
        shutil.rmtree(template_cache(server.cache / "cache").directory, ignore_errors=True)


def _read_until(process: subprocess.Popen[bytes], text: bytes) -> bytes:
    """Read what a process says up to a line that has some text."""
    assert process.stdout is not None
    said = b""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(said.decode())


def test_a_run_there_is_a_run_here(machine: Machine, settings: Settings, tmp_path: Path) -> None:
    assert machine.first.returncode == 0, machine.first.stdout + machine.first.stderr
    name = f"127.0.0.1:{machine.sshd.port}"
    assert f"{name}: bringing " in machine.first.stderr
    assert "brought here" in machine.first.stdout  # the template, as QEMU is the same

    with machine.running(settings, tmp_path, *CHOSEN) as process:
        said = _read_until(process, b" PASSED ")
        assert process.poll() is None, "the first result came with the last"
        assert process.stdout is not None
        said += process.stdout.read()
        assert process.wait(60) == 0, said.decode() + (tmp_path / "stderr").read_text()
    assert "bringing" not in (tmp_path / "stderr").read_text(), "something was brought again"
    lines = said.decode().splitlines()
    assert all(line.startswith((f"{name}: ", "host: ")) for line in lines)
    assert any(line.startswith(f"{name}: suites/transport/test_vsock_directions.py::") for line in lines)

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
    completed = run_on(machine.sshd, settings, tmp_path, "transport", "-k", "no_test_has_that_name")
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
    assert f"kvtest: the connection to 127.0.0.1:{machine.sshd.port} is lost: " in stderr
    read = Results.read(results)
    *ended, lost = read.tests
    assert (lost.outcome, lost.properties["error"]) == (Outcome.ERROR, "HostLostError")
    assert ended
    assert not read.complete
    assert f"{len(ended)} test" in stderr
    missing = {test.id for test in read.run.plan.tests if not test.left_out and not test.not_applicable} - {
        test.id for test in ended
    }
    assert f"{len(missing)} tests had not: suites/transport/" in stderr
    assert "no, the run was interrupted" in (tmp_path / "kvtest-results/junit.xml").read_text()
    assert machine.nothing_is_left()


OWN_TESTS = """
import threading

import pytest

import words


@pytest.mark.requirement("MINE-OWN-001")
def test_fails(artifacts):
    (artifacts / "kept").write_text(words.KEPT)
    assert words.KEPT == "lost"


def test_is_not_over(artifacts):
    threading.Event().wait(60)
"""
OWN_REQUIREMENT = """
[[requirement]]
id = "MINE-OWN-001"
level = "MUST"
statement = "It is kept."
source = [{ document = "mine", section = "1" }]
rings = ["transport"]
transports = []

[document.mine]
title = "Mine"
url = "https://example.invalid/mine"
"""


def test_what_failed_tests_of_ones_own_have_left_is_here_when_the_connection_is_cut(
    machine: Machine, settings: Settings, tmp_path: Path
) -> None:
    for name, text in {
        "pytest.ini": "[pytest]\n",
        "own/test_own.py": OWN_TESTS,
        "own/words.py": 'KEPT = "kept"\n',
        "requirements/own.toml": OWN_REQUIREMENT,
        "kvtest.toml": 'requirements = ["requirements"]\n',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    results = tmp_path / "kvtest-results"
    with machine.running(settings, tmp_path, "own/test_own.py", "-n", "0") as process:
        said = _read_until(process, b" FAILED ").decode()
        assert wait_for_file(results / "artifacts", Deadline(BOUND))
        for pid in machine.sshd.session():
            os.kill(pid, signal.SIGKILL)
        assert process.stdout is not None
        said += process.stdout.read().decode()
        assert process.wait(60) == 1  # what was violated is
    assert f"127.0.0.1:{machine.sshd.port}: own/test_own.py::test_fails FAILED" in said
    failed, lost = Results.read(results / "results.jsonl").tests
    assert lost.id == f"kvtest::host[{machine.sshd.host}]"
    assert (failed.id, failed.requirements) == ("own/test_own.py::test_fails", ("MINE-OWN-001",))
    assert "reproduce: kvtest run --host=ssh://127.0.0.1:" in failed.details
    assert " own/test_own.py::test_fails --requirements=requirements" in failed.details
    assert (Path(failed.properties["artifacts"]) / "kept").read_text() == "kept"
    assert "without the artifacts of 0 of them" in (tmp_path / "stderr").read_text()
    assert (results / "missing.txt").read_text() == "no result: own/test_own.py::test_is_not_over\n"
    assert machine.nothing_is_left()


@needs_root
def test_a_shim_and_a_profile_of_ones_own_are_brought(machine: Machine, settings: Settings, tmp_path: Path) -> None:
    profile = load_profile("runc")
    shim = find_program(profile.shim)
    assert shim is not None
    shutil.copy(shim, tmp_path / "my-shim")
    text = (package_directory() / "runtime/profiles/runc.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace(profile.description, "mine"))
    own = ("--runtime", "./mine.toml", "--shim", "./my-shim")
    completed = run_on(machine.sshd, settings, tmp_path, "runtime", "-k", "test_a_shim_tells_its_address", *own)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    tests = Results.read(tmp_path / "kvtest-results/results.jsonl").tests
    assert {test.outcome for test in tests} == {Outcome.PASSED}
    brought = {path.name for path in (machine.sshd.cache / "files").glob("*/*")}
    assert {"mine.toml", "my-shim"} <= brought
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


def test_an_interrupt_is_one_of_the_other_hosts_too(machine: Machine, settings: Settings, tmp_path: Path) -> None:
    again = machine.sshd.host.replace("//", "//root@")
    with machine.running(settings, tmp_path, *CHOSEN, "--host", again) as process:
        said = _read_until(process, b" PASSED ").decode()
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        said += process.stdout.read().decode()
        assert process.wait(60) == 2, said
    assert (tmp_path / "stderr").read_text().count("connecting to") == 1
    assert ": the run was stopped before" in said
    assert machine.nothing_is_left()


def test_a_run_that_is_killed_there_says_so(machine: Machine, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text("import os\n\ndef test_first(artifacts):\n    os.kill(os.getpid(), 9)\n")
    done = run_on(machine.sshd, settings, tmp_path, "test_own.py", "-n", "0")
    assert done.returncode == 2, done.stdout + done.stderr
    said = done.stderr.replace("\n", " ")
    assert f"kvtest on {machine.sshd.host} was killed by SIGKILL; 0 tests had ended" in said, done.stdout
    assert (tmp_path / "kvtest-results/missing.txt").read_text() == "no result: test_own.py::test_first\n"
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
    RemoteHost(machine.sshd.address, tmp_path).close()
    assert not left.exists()


def test_a_host_that_is_not_there_takes_nothing_from_the_others(
    machine: Machine, settings: Settings, tmp_path: Path
) -> None:
    nobody = "ssh://root@127.0.0.1:1"
    done = run_on(machine.sshd, settings, tmp_path, *CHOSEN, "-k", "test_the_host_connects", "--host", nobody)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"kvtest: {nobody}: " in done.stderr
    assert f"not run: {nobody}: " in done.stdout
    read = Results.read(tmp_path / "kvtest-results/results.jsonl")
    assert [test.outcome for test in read.tests] == [Outcome.PASSED]
    assert read.tests[0].id.endswith(f"-{machine.sshd.host}]")
    assert not read.complete
    assert (tmp_path / "kvtest-results/junit.xml").is_file()
    assert "1 passed" in done.stdout.rpartition("its results are in")[2]


def test_both_ends_notice_silence(machine: Machine, tmp_path: Path) -> None:
    address = machine.sshd.address
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
            host.run(["transport"], ["--accelerator=tcg"], stop)
        assert not patience[0].expired
    assert machine.processes_end(besides=stopped), "the run goes on with nobody who listens"
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)


def test_signs_of_life_do_not_disturb_what_is_brought(server: Sshd, tmp_path: Path) -> None:
    with RemoteHost(server.address, tmp_path) as host, pytest.MonkeyPatch.context() as patch:
        send = host._link.send

        def send_with_sign_of_life(header: Header, payload: bytes = b"", *, more: bool = False) -> None:
            send({"ping": 1})
            send(header, payload, more=more)

        patch.setattr(host._link, "send", send_with_sign_of_life)
        assert host.bring([cargo.site()]) > 1000
        assert host.bring([cargo.site()]) == 0
    assert len(list((server.cache / "sites").iterdir())) == 1


def test_what_is_damaged_there_is_mended(server: Sshd, tmp_path: Path) -> None:
    with RemoteHost(server.address, tmp_path) as host:
        host.bring([cargo.site()])
        (there,) = (server.cache / "sites").iterdir()
        (there / "kvtest/errors.py").unlink()
        os.truncate(there / "kvtest/deadline.py", 0)
        assert host.bring([cargo.site()]) == 1  # of the other one it still has what that was made of
    for name in ("errors.py", "deadline.py"):
        assert (there / "kvtest" / name).read_bytes() == (package_directory() / name).read_bytes()
