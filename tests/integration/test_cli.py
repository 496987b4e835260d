# SPDX-License-Identifier: Apache-2.0
"""The command line, as a user types it."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import pytest
from attrs import evolve

from kvtest.cli.suites import workers_for
from kvtest.deadline import Deadline
from kvtest.doctor.own import check_mmdebstrap
from kvtest.errors import HostError
from kvtest.settings import Settings
from tests.processes import children_of, wait_for_end

COMMAND = [sys.executable, "-m", "kvtest"]


def kvtest(settings: Settings, *arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KVTEST_CACHE": str(settings.cache), "COLUMNS": "200"}
    result = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result


def test_its_version_is_told(settings: Settings, tmp_path: Path) -> None:
    assert re.fullmatch(r"kvtest \d+\.\d+\.\d+\n", kvtest(settings, "--version", cwd=tmp_path).stdout)


BODY = {
    "passes": "def test_x(guest): assert guest.run(['true']).code == 0",
    "fails": "def test_x(guest): assert guest.run(['false']).code == 0",
    "broken": "import pytest\n@pytest.fixture\ndef mine(guest): raise RuntimeError('x')\ndef test_x(mine): pass",
    "no fixture": "def test_x(guest, nobody): pass",
    "no boot": "import pytest\n@pytest.mark.guest(kernel_arguments=['rdinit=/x', 'init=/x'])\ndef test_x(guest): pass",
}


@pytest.mark.parametrize(
    ("body", "code"), [("passes", 0), ("fails", 1), ("broken", 2), ("no fixture", 2), ("no boot", 2)]
)
def test_exit_statuses_of_a_run(settings: Settings, tmp_path: Path, body: str, code: int) -> None:
    project = tmp_path / "my project ß"
    project.mkdir()
    (project / "test_mine.py").write_text(BODY[body])
    result = kvtest(settings, "run", "test_mine.py", "-n", "0", cwd=project, code=code)
    assert (project / "kvtest-results/junit.xml").exists(), result.stdout


def test_one_test_of_the_shipped_suites_from_anywhere(settings: Settings, tmp_path: Path) -> None:
    test = "suites/transport/test_vsock_directions.py::test_the_host_connects_to_the_guest[vhost-user-vsock]"
    result = kvtest(settings, "run", test, cwd=tmp_path)
    assert "1 passed" in result.stdout
    assert 'classname="suites.transport.test_vsock_directions"' in (tmp_path / "kvtest-results/junit.xml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--guest-kernel", "6.13"], "unknown guest kernel '6.13'"),
        (["run", "--guest-kernel", "path:/no where"], "no directory /no where"),
        (["run", "--transport", "vhost-user-vsok"], "vhost-user-vsock"),
        (["run", "--accelerator", "kwm"], "kvm"),
        (["run", "transprt"], "did you mean 'transport'?"),
        (["run", "--qemu", "no-such-qemu"], "apt-get install qemu-system-x86"),
        (["run", "--results", "a file"], "is a file"),
        (["run", "--guest-image", "recipe.toml"], "unknown key 'package'"),
        (["run", "--guest-image", "gest"], "did you mean 'guest'?"),
        (["run", "--cache", "a file"], "could not write to the cache"),
        (["run", "--memory", "lots"], "memory"),
        (["run", "-k", "nothing_matches_this", "transport"], "there are no tests in what was selected"),
        (["run", "test_broken.py"], "could not collect the tests of test_broken.py"),
        (["run", "test_unrelated.py"], "none of the selected tests uses kvtest"),
        (["run", "transport", "test_unrelated.py"], "transport is of the shipped suites, and test_unrelated.py is not"),
        (["run", "-k", "and and", "transport"], "Wrong expression passed to '-k'"),
        (["run", "-n", "many", "transport"], "-n many: the number of workers"),
        (["run", "--results", "."], "no run of kvtest has put there"),
        (["run", "--results", "/proc/results"], "could not use the results directory /proc/results"),
        (["run", "--cache", "/proc/cache"], "could not write to the cache /proc/cache"),
        (["image", "list", "--cache", "a file"], "could not write to the cache"),
        (["shell", "no-such-command"], "could not run 'no-such-command'"),
        (["image", "build", "--guest-kernel", "nope"], "unknown guest kernel 'nope'"),
        (["shell", "--run-directory", "x" * 100], "107"),
        (["run", "--host", "lob"], "'lob' is no host"),
        (["run", "--host", ","], "no host is named"),
        (["run", "--host", "lab", "test_missing.py"], "unknown ring or path 'test_missing.py'"),
        (["run", "--host", "lab", "--runtime", "runc"], "--runtime runc: lab hosts of the recipe lab do not have it"),
        (["run", "--host", "lab", "--transport", "virtio-serial"], "a lab host is there for vhost-vsock"),
        (["run", "--host", "lab:6.99"], "unknown kernel of a lab host '6.99'"),
        (["frobnicate"], "No such command"),
        (["run", "--frobnicate"], "No such option"),
    ],
)
def test_wrong_usage_is_one_message_and_status_2(
    settings: Settings, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "a file").write_text("x")
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts/thesis").write_text("years of work")
    (tmp_path / "test_broken.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "test_unrelated.py").write_text("def test_x(): pass\n")
    (tmp_path / "recipe.toml").write_text('suite = "bookworm"\npackage = []\n')
    result = kvtest(settings, *arguments, cwd=tmp_path, code=2)
    assert message in result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    assert (tmp_path / "artifacts/thesis").read_text() == "years of work"


def test_a_wrong_requirement_is_one_message_with_workers_too(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        'from kvtest import requirement\n@requirement("VSOCK-CID-01")\ndef test_x(guest): pass\n'
    )
    result = kvtest(settings, "run", "test_mine.py", "-n", "2", cwd=tmp_path, code=2)
    assert "test_mine.py::test_x: unknown requirement 'VSOCK-CID-01'" in result.stderr
    assert "INTERNALERROR" not in result.stdout + result.stderr


def test_a_project_that_takes_warnings_for_errors(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (tmp_path / "test_mine.py").write_text(BODY["passes"])
    kvtest(settings, "run", "test_mine.py", "-n", "0", cwd=tmp_path)


# What a shell starts in the background has SIGINT ignored, and so has what that starts.
CTRL_C_COUNTS = ("env", "--default-signal=INT")
WAITS = """
import signal, pytest
def test_a(guest): pass
def test_b(guest):
    print("waiting", flush=True)
    signal.sigtimedwait([signal.SIGUSR1], 60)
"""


@contextlib.contextmanager
def waiting(settings: Settings, project: Path, body: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Run a test in the background up to where it says that it waits; its output goes on from there."""
    (project / "test_mine.py").write_text(body)
    environment = {**os.environ, "KVTEST_CACHE": str(settings.cache), "PYTEST_ADDOPTS": "-s"}
    command = [*CTRL_C_COUNTS, *COMMAND, "run", "test_mine.py", "-n", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=project, env=environment) as process:
        assert process.stdout is not None
        assert any("waiting" in line for line in process.stdout)
        yield process, process.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_keeps_its_results(settings: Settings, tmp_path: Path, number: signal.Signals) -> None:
    with waiting(settings, tmp_path, WAITS) as (process, _):
        second = kvtest(settings, "run", "test_mine.py", cwd=tmp_path, code=2)
        assert "another run is writing its results" in second.stderr
        plain = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "no:cacheprovider",
                f"--kvtest-cache={settings.cache}",
                "test_mine.py",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert plain.returncode == pytest.ExitCode.USAGE_ERROR
        assert "another run is writing its results" in plain.stdout
        process.send_signal(number)
        assert process.wait(30) == 2
    junit = (tmp_path / "kvtest-results/junit.xml").read_text()
    assert 'name="test_a"' in junit
    assert 'name="complete" value="no, the run was interrupted"' in junit


HANGS = """
import signal, pytest
@pytest.fixture
def slow(guest):
    yield
    print("tearing down", flush=True)
    while True:
        signal.sigtimedwait([signal.SIGUSR1], 60)
def test_a(slow):
    print("waiting", flush=True)
    signal.sigtimedwait([signal.SIGUSR1], 60)
"""


def test_a_second_ctrl_c_ends_at_once(settings: Settings, tmp_path: Path) -> None:
    with waiting(settings, tmp_path, HANGS) as (process, output):
        everybody = [os.pidfd_open(child) for child in children_of(process.pid)]
        process.send_signal(signal.SIGINT)
        assert any("tearing down" in line for line in output)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT
    assert everybody
    assert wait_for_end(everybody, Deadline(10.0))


def test_the_results_of_the_last_run_are_not_lost(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(BODY["fails"])
    kvtest(settings, "run", "test_mine.py", "-n", "0", cwd=tmp_path, code=1)
    (tmp_path / "test_mine.py").write_text(BODY["passes"])
    kvtest(settings, "run", "test_mine.py", "-n", "0", cwd=tmp_path)
    results = tmp_path / "kvtest-results"
    assert 'failures="1"' in (results / "previous/junit.xml").read_text()
    assert 'failures="0"' in (results / "junit.xml").read_text()


def rows(report: str) -> dict[str, dict[str, Any]]:
    return {row["check"]: row for row in json.loads(report)["checks"]}


def test_doctor(settings: Settings, tmp_path: Path) -> None:
    found = rows(kvtest(settings, "doctor", "--json", cwd=tmp_path).stdout)
    assert found["QEMU"]["status"] == "ok"
    assert found["vhost-user-vsock-pci"]["status"] == "ok"
    assert found["accelerator"]["status"] in {"ok", "warning"}
    assert {"templates", "host kernel", "vhost_vsock", "free memory", "cgroups", "leftovers"} <= set(found)
    result = kvtest(settings, "doctor", "--qemu", "no-such-qemu", cwd=tmp_path, code=2)
    assert re.search(
        r"^QEMU +missing +transport, agent, runtime +QEMU \(no-such-qemu\) was not found", result.stdout, re.MULTILINE
    )
    assert "-> apt-get install qemu-system-x86" in result.stdout
    assert "kvtest run does not work here" in result.stdout


def test_doctor_says_why_a_kernel_of_ones_own_will_not_do(settings: Settings, tmp_path: Path) -> None:
    report = kvtest(settings, "doctor", "--json", "--guest-kernel", f"path:{tmp_path}", cwd=tmp_path, code=2).stdout
    image = rows(report)["guest image"]
    assert (image["status"], image["found"]) == ("missing", f"no bzImage or vmlinuz in {tmp_path}")


def test_images(settings: Settings, tmp_path: Path) -> None:
    name = kvtest(settings, "image", "build", cwd=tmp_path).stdout.strip()
    assert name in kvtest(settings, "image", "list", cwd=tmp_path).stdout
    shown = json.loads(kvtest(settings, "image", "show", cwd=tmp_path).stdout)
    assert Path(shown["kernel"]).is_file()
    assert "busybox-static" in shown["manifest"]["packages"]


def test_a_command_in_a_shell_passes_streams_and_status(settings: Settings, tmp_path: Path) -> None:
    environment = {**os.environ, "KVTEST_CACHE": str(settings.cache)}
    result = subprocess.run(
        [*COMMAND, "shell", "sh", "-c", "cat; echo to stderr >&2; exit 7"],
        input="typed\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
        check=False,
    )
    assert result.returncode == 7
    assert result.stdout == "typed\n"
    assert "to stderr" in result.stderr


def set_size(descriptor: int, rows: int, columns: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Terminal:
    """A terminal with a program in it."""

    def __init__(self, settings: Settings, *arguments: str) -> None:
        self.seen = b""
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            set_size(0, 30, 90)
            os.environ["KVTEST_CACHE"] = str(settings.cache)
            os.execv(COMMAND[0], [*COMMAND, *arguments])
        self._pidfd = os.pidfd_open(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid >= 0:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._pidfd)
        os.close(self.descriptor)

    def exit_code(self) -> int:
        """Wait for its end and return its exit code."""
        ended, _, _ = select.select([self._pidfd], [], [], 60)
        assert ended, f"it goes on; {self.seen!r}"
        _, status = os.waitpid(self.pid, 0)
        self.pid = -1
        return os.waitstatus_to_exitcode(status)

    def type(self, text: bytes) -> None:
        os.write(self.descriptor, text)

    def expect(self, text: bytes) -> None:
        deadline = Deadline(60)
        while text not in self.seen:
            ready, _, _ = select.select([self.descriptor], [], [], deadline.remaining)
            assert ready, f"{text!r} did not appear in {self.seen!r}"
            self.seen += os.read(self.descriptor, 4096)
        self.seen = self.seen[self.seen.index(text) + len(text) :]


def test_an_interactive_shell(settings: Settings) -> None:
    with Terminal(settings, "shell") as terminal:
        terminal.expect(b"guest:/# ")
        terminal.type(b"stty size; echo $((40 + 2))\r")
        terminal.expect(b"30 90")
        terminal.expect(b"42")
        set_size(terminal.descriptor, 40, 120)
        terminal.type(b"until stty size | grep 120; do :; done; echo resized\r")
        terminal.expect(b"40 120")
        terminal.expect(b"resized\r\nguest:/# ")
        # Said by the command itself, so that the terminal is its own by then, and not the shell's.
        terminal.type(b"sh -c 'echo $((6 * 7))nd sleep; exec sleep 1000'\r")
        terminal.expect(b"42nd sleep")
        terminal.type(b"\x03")  # Ctrl-C is for the guest
        terminal.expect(b"guest:/# ")  # what is typed before it may be thrown away with the rest of the line
        terminal.type(b"exit 5\r")
        assert terminal.exit_code() == 5


def test_without_root_building_images_needs_ranges_of_ids(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody")
    monkeypatch.setattr("kvtest.doctor.own.require", lambda program, _package: program)
    with pytest.raises(HostError, match="/etc/subuid gives somebody no range of IDs") as caught:
        check_mmdebstrap(evolve(settings, cache=tmp_path))
    assert "usermod --add-subuids" in (caught.value.hint or "")


def test_no_more_workers_than_there_is_room_for() -> None:
    processors = len(os.sched_getaffinity(0))
    assert workers_for(1000, 256) == (processors if processors > 1 else 0)
    assert workers_for(1, 256) == 0
    assert workers_for(1000, 1 << 30) == 0
    assert workers_for(1000, 256, "3") == 3
    assert workers_for(2, 256, "999") == 2
    assert workers_for(1000, 256, "0") == 0
    assert workers_for(1000, 1 << 30, "4") == 1


def test_an_interruption_while_tests_are_collected_ends_the_run(tmp_path: Path) -> None:
    """pytest takes it for the end of its collection, and says so by its exit status alone."""
    (tmp_path / "test_mine.py").write_text("def test_runs(artifacts): pass\n")
    hook = "def pytest_collection_finish():\n    os.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "conftest.py").write_text(f"import os, signal\n\n{hook}")
    command = [sys.executable, "-m", "kvtest", "run", "test_mine.py", "-n", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stdout + done.stderr
    assert done.stderr == "kvtest: interrupted\n"
    assert not (tmp_path / "kvtest-results/results.jsonl").exists()
