# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kvtest.deadline import Deadline
from kvtest.errors import DeadlineExceededError, SettingError
from kvtest.ownership import MountNamespace, OwnedProcess, RunDirectory, run
from kvtest.runtime.installation import root_is_mount_point

ROOT = Path(__file__).parents[2]


def test_how_a_process_ends(tmp_path: Path) -> None:
    with OwnedProcess(["sh", "-c", "echo out; echo err >&2; exit 3"], output=tmp_path / "log") as process:
        assert process.wait(20) == 3
        assert process.ending == "exit status 3"
        assert process.tail() == "out\nerr"
    with OwnedProcess(["sleep", "1000"], output=tmp_path / "log") as process:
        assert process.running
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
        assert process.ending == "killed by SIGKILL"


def test_waiting_has_an_end(tmp_path: Path) -> None:
    with (
        OwnedProcess(["sleep", "1000"], output=tmp_path / "log") as process,
        pytest.raises(DeadlineExceededError, match=f"process {process.pid} to end"),
    ):
        process.wait(Deadline(0.05))


OWNER = """
import sys, threading
from pathlib import Path
from kvtest.ownership import OwnedProcess
started = []
def start():
    started.append(OwnedProcess(["sleep", "1000"], output=Path(sys.argv[1])))
thread = threading.Thread(target=start)  # that ends: its children must not end with it
thread.start(); thread.join()
print(started[0].pid, started[0].running, flush=True)
sys.stdin.read()
"""


def test_a_process_dies_with_its_owner(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "log")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with owner:
        assert owner.stdout is not None
        pid, running = owner.stdout.readline().split()
        assert running == "True"
        descriptor = os.pidfd_open(int(pid))
        owner.kill()
    assert select.select([descriptor], [], [], 20)[0], "the process outlived its owner"
    os.close(descriptor)


HASTY_OWNER = """
import os, signal, sys
from pathlib import Path
from kvtest.ownership import OwnedProcess
OwnedProcess(["sleep", "1000"], output=Path(sys.argv[1]), pass_fds=[int(sys.argv[2])])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("attempt", range(10))
def test_a_process_dies_with_an_owner_that_dies_at_once(tmp_path: Path, attempt: int) -> None:
    reader, writer = os.pipe()
    try:
        subprocess.run(
            [sys.executable, "-c", HASTY_OWNER, str(tmp_path / "log"), str(writer)],
            pass_fds=[writer],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
    finally:
        os.close(writer)
    assert select.select([reader], [], [], 20)[0], "the process outlived its owner"
    assert os.read(reader, 1) == b"", "nobody writes to the pipe: it ends when its last holder ends"
    os.close(reader)


def test_a_run_directory_is_private_and_goes() -> None:
    with tempfile.TemporaryDirectory() as base:
        with RunDirectory(Path(base) / "new") as directory:
            assert directory.path.stat().st_mode & 0o777 == 0o700
            (directory.path / "file").touch()
        assert list((Path(base) / "new").iterdir()) == []


def test_a_keeper_whose_python_is_gone_says_so(tmp_path: Path) -> None:
    completed = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import sys; sys.executable = sys.argv[1]\n"
            "from kvtest.ownership import RunDirectory\n"
            "from kvtest.errors import HostError\n"
            "try: RunDirectory()\n"
            "except HostError as error: print(error)\n",
            f"{tmp_path}/python",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.stdout.startswith(f"could not run {tmp_path}/python, with which kvtest keeps"), completed.stderr
    assert "hint: " in completed.stdout


def test_a_run_directory_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="107") as caught:
        RunDirectory(tmp_path / ("x" * 90))
    assert "shorter" in (caught.value.hint or "")
    assert not (tmp_path / ("x" * 90)).exists()


@pytest.mark.skipif(os.geteuid() != 0 or not root_is_mount_point(), reason="not root, or in a chroot: run it with sudo")
def test_what_is_mounted_in_a_namespace_is_seen_there_alone(tmp_path: Path) -> None:
    with MountNamespace() as mounts:
        assert not mounts.mounted(tmp_path)
        command = ["mount", "-t", "tmpfs", "nothing", str(tmp_path)]
        assert run(command, mounts=mounts, deadline=20).status == 0
        assert mounts.mounted(tmp_path)
        assert not os.path.ismount(tmp_path)
        shown = run(["findmnt", "-no", "PROPAGATION", str(tmp_path)], mounts=mounts, deadline=20)
        assert shown.stdout == "shared\n", "not as on a host"
        assert run(["pwd"], mounts=mounts, directory=tmp_path.parent, deadline=20).stdout == f"{tmp_path.parent}\n"
        assert run(["pwd"], mounts=mounts, deadline=20).stdout == run(["pwd"], deadline=20).stdout
