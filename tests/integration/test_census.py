# SPDX-License-Identifier: Apache-2.0
"""A leak of each kind is planted, and has to be found by the test that made it and by no other."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvtest.census import HEIRS, Kind, Ledger, Marks, survey
from kvtest.deadline import Deadline
from kvtest.errors import LeakError
from kvtest.guest import libc
from kvtest.ownership import OwnedProcess, RunDirectory
from kvtest.ownership.owner import current_keeper
from kvtest.runtime.installation import root_is_mount_point
from kvtest.settings import Settings

WORD = f"kvtest{uuid.uuid4().hex[:8]}"
root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, cgroups and networks need root: run it with sudo")
outside = pytest.mark.skipif(
    not root_is_mount_point(), reason="in a chroot, whose root's propagation cannot be changed: run it outside"
)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    HEIRS.mark()
    current_keeper()  # lasts as long as this process, and is not what is tested
    ledger = Ledger(Marks())
    ledger.marks.add_place(tmp_path)
    ledger.marks.add_word(WORD)
    ledger.open()
    return ledger


def found(ledger: Ledger) -> list[tuple[Kind, str]]:
    with pytest.raises(LeakError) as caught:
        ledger.close(Deadline(0.1))
    assert all(thing in str(caught.value) for thing in caught.value.things)
    return [(thing.kind, thing.text) for thing in ledger.left()]


def clean(ledger: Ledger) -> None:
    ledger.close(Deadline(10.0))


def test_a_process_that_forked_away(ledger: Ledger, tmp_path: Path) -> None:
    numbers = tmp_path / "pid"
    os.mkfifo(numbers)
    command = f"setsid sh -c 'echo $$ >{numbers}; exec sleep 1000' & wait"
    with OwnedProcess(["sh", "-c", command], output=tmp_path / "log") as process:
        pid = int(numbers.read_text())
        process.kill()
        process.wait(10.0)
        kinds = found(ledger)
        assert [kind for kind, _ in kinds if kind is not Kind.DESCRIPTOR] == [Kind.PROCESS]
        assert kinds[0][1] == f"{pid}: sleep 1000"
        os.kill(pid, 9)
    clean(ledger)


def test_a_daemon_of_a_child_of_the_test(ledger: Ledger) -> None:
    script = "setsid sh -c 'echo $$; exec sleep 1000 >&-' & read line"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.communicate("end\n")
    assert found(ledger) == [(Kind.PROCESS, f"{pid}: sleep 1000")]
    os.kill(pid, 9)
    clean(ledger)


def test_the_helpers_of_multiprocessing_are_no_leak() -> None:
    script = """
import multiprocessing.shared_memory
from kvtest.census import Kind, Ledger, Marks
ledger = Ledger(Marks())
ledger.open()
memory = multiprocessing.shared_memory.SharedMemory(create=True, size=4096)
context = multiprocessing.get_context("forkserver")
process = context.Process(target=print, args=("here",))
process.start()
process.join()
process.close()
assert {thing.kind for thing in ledger.left()} <= {Kind.DESCRIPTOR, Kind.SHARED_MEMORY}, ledger.left()
memory.close()
memory.unlink()
assert ledger.left() == []
"""
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (completed.returncode, completed.stdout) == (0, "here\n"), completed.stderr


def test_a_zombie(ledger: Ledger) -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert found(ledger) == [(Kind.PROCESS, f"{process.pid} (a zombie): [true]")]
    process.wait()
    clean(ledger)


def test_a_descriptor(ledger: Ledger) -> None:
    with open("/etc/passwd") as stream:
        assert found(ledger) == [(Kind.DESCRIPTOR, f"{stream.fileno()} of kvtest: /etc/passwd")]
    clean(ledger)


def test_a_socket_is_told_by_its_address(ledger: Ledger, tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path), socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"\0{WORD}")
        bound.listen()
        with pytest.raises(LeakError, match=rf"AF_UNIX b'\\x00{WORD}'") as caught:
            ledger.close(Deadline(0.1))
        assert caught.value.things[-1] == f"unix-socket @{WORD}"
    clean(ledger)


def test_a_run_directory(ledger: Ledger) -> None:
    directory = RunDirectory()
    assert (Kind.RUN_DIRECTORY, str(directory.path)) in found(ledger)
    directory.close()
    clean(ledger)


def test_a_file_of_shared_memory(ledger: Ledger) -> None:
    path = Path("/dev/shm") / WORD
    path.touch()
    assert found(ledger) == [(Kind.SHARED_MEMORY, str(path))]
    path.unlink()
    clean(ledger)


def test_a_segment_of_shared_memory(ledger: Ledger) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    segment = library.shmget(0, 4096, 0o600 | 0o1000)  # IPC_PRIVATE, IPC_CREAT
    assert segment >= 0, os.strerror(ctypes.get_errno())
    try:
        text = f"System V segment {segment} of 4096 bytes, made by process {os.getpid()}"
        assert found(ledger) == [(Kind.SHARED_MEMORY, text)]
    finally:
        library.shmctl(segment, 0, None)  # IPC_RMID
    clean(ledger)


@contextlib.contextmanager
def mounted(source: str, target: Path, kind: str) -> Iterator[None]:
    target.mkdir(exist_ok=True)
    libc.mount(source, str(target), kind, "")
    try:
        yield
    finally:
        subprocess.run(["umount", str(target)], check=True)


@root
def test_a_mount(ledger: Ledger, tmp_path: Path) -> None:
    target = tmp_path / "a mount"
    with mounted("nothing", target, "tmpfs"):
        assert found(ledger) == [(Kind.MOUNT, f"{target}: tmpfs of nothing")]
    clean(ledger)


@root
@outside
def test_a_mount_in_a_private_namespace(ledger: Ledger, tmp_path: Path) -> None:
    """Of a process that was there before the test, such as a shim of the module."""
    script = "echo ready; read line; mount -t tmpfs nothing /mnt; echo mounted; read line"
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        ledger.open()
        process.stdin.write("\n")
        process.stdout.readline()
        namespace = os.stat(f"/proc/{process.pid}/ns/mnt").st_ino
        assert found(ledger) == [(Kind.MOUNT, f"/mnt: tmpfs of nothing in the mount namespace {namespace}")]
    clean(ledger)


@root
@outside
def test_a_process_with_a_namespace_is_told_without_its_mounts(ledger: Ledger) -> None:
    with subprocess.Popen(["unshare", "--mount", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        process.stdout.read(1)
        with pytest.raises(LeakError) as caught:
            ledger.close(Deadline(0.1))
        assert [thing for thing in caught.value.things if not thing.startswith("descriptor")] == [
            f"process {process.pid}: cat"
        ]
        process.stdin.close()
    clean(ledger)


@root
def test_a_loop_device(ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(1 << 20))
    device = subprocess.run(
        ["losetup", "--find", "--show", str(file)], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert found(ledger) == [(Kind.LOOP_DEVICE, f"{device} of {file}")]
    subprocess.run(["losetup", "--detach", device], check=True)
    clean(ledger)


@root
def test_a_cgroup(ledger: Ledger) -> None:
    base = Path("/sys/fs/cgroup")
    path = (base if (base / "cgroup.procs").exists() else base / "pids") / WORD
    path.mkdir()
    assert found(ledger) == [(Kind.CGROUP, str(path))]
    path.rmdir()
    clean(ledger)


@root
def test_a_network_namespace_and_a_device(ledger: Ledger) -> None:
    device = WORD[:15]  # IFNAMSIZ
    ledger.marks.add_word(device)
    subprocess.run(["ip", "netns", "add", WORD], check=True)
    subprocess.run(["ip", "tuntap", "add", "dev", device, "mode", "tap"], check=True)
    assert found(ledger) == [
        # The namespace has a name because it is mounted there.
        (Kind.MOUNT, f"/run/netns/{WORD}: nsfs of nsfs"),
        (Kind.NETWORK_NAMESPACE, f"/run/netns/{WORD}"),
        (Kind.NETWORK_DEVICE, device),
    ]
    subprocess.run(["ip", "link", "delete", device], check=True)
    subprocess.run(["ip", "netns", "delete", WORD], check=True)
    clean(ledger)


def test_what_is_somebody_elses_does_not_count(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever another worker makes has neither our places nor our words, and does not descend from us."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with contextlib.ExitStack() as theirs:
        before = survey(Marks())
        bound = theirs.enter_context(socket.socket(socket.AF_UNIX))
        with contextlib.chdir(elsewhere):
            bound.bind("socket")
        made = survey(Marks()) - before
        assert {thing.kind for thing in made} == {Kind.DESCRIPTOR}  # ours, of this process


def test_what_outlives_a_test_by_right(ledger: Ledger) -> None:
    with ledger.lasting("outer"):
        first = open("/etc/passwd")  # noqa: SIM115 - a leak is what is tested
        with ledger.lasting("inner"):
            second = open("/etc/group")  # noqa: SIM115
    clean(ledger)
    ledger.release("outer")  # what is within stays by right
    assert found(ledger) == [(Kind.DESCRIPTOR, f"{first.fileno()} of kvtest: /etc/passwd")]
    first.close()
    ledger.release("inner")
    assert found(ledger) == [(Kind.DESCRIPTOR, f"{second.fileno()} of kvtest: /etc/group")]
    second.close()
    clean(ledger)


def test_what_is_to_be_ignored(tmp_path: Path) -> None:
    ledger = Ledger(Marks(), ["descriptor:*/etc/pass*"])
    ledger.open()
    with open("/etc/passwd"), open("/etc/group") as counted:
        assert found(ledger) == [(Kind.DESCRIPTOR, f"{counted.fileno()} of kvtest: /etc/group")]
    clean(ledger)


def test_a_short_word_is_refused() -> None:
    with pytest.raises(ValueError, match="'net' is too short"):
        Marks().add_word("net")


SUITE = """
import atexit
import os
import subprocess
import pytest

@pytest.fixture(scope="module")
def stream():
    with open("/etc/hosts") as stream:
        yield stream

def test_clean(artifacts, stream):
    (artifacts / "a file").write_text("stays")

def test_a_shared_guest_stays(guest):
    assert guest.run(["true"]).code == 0

def test_descriptor(artifacts, stream):
    os.open("/etc/passwd", os.O_RDONLY)

def test_after_it(artifacts, stream):
    pass

def test_processes(host):
    atexit.register(subprocess.Popen(["sleep", "1000"]).kill)

@pytest.mark.guest(scope="module")
def test_first_of_the_module(guest):
    pass

@pytest.mark.guest(scope="module")
def test_second_of_the_module(guest, vsock):
    pass
"""


def test_a_test_fails_for_what_it_leaves(pytester: pytest.Pytester, settings: Settings) -> None:
    pytester.makepyfile(test_leaks=SUITE)
    result = pytester.runpytest_subprocess(
        "-n0", "-p", "no:cacheprovider", "--kvtest-census-timeout=0.2", f"--kvtest-cache={settings.cache}"
    )
    result.assert_outcomes(passed=7, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_descriptor*",
            "left behind, 0.* s after the end: descriptor * of kvtest: /etc/passwd",
            "first cause: LeakError: left behind*",
            "*ERROR at teardown of test_processes*",
            "left behind, 0.* s after the end: process *: sleep 1000",
            "FAILED test_leaks.py::test_descriptor",
            "FAILED test_leaks.py::test_processes",
        ]
    )


def test_an_owner_that_makes_the_like_again_has_that_too(ledger: Ledger) -> None:
    """A descriptor has the number of one that the owner had before, and is another."""
    with ledger.lasting("owner"):
        first = os.open("/etc/passwd", os.O_RDONLY)
    os.close(first)
    ledger.open()  # a test later, in which it is not there
    with ledger.lasting("owner"):
        second = os.open("/etc/passwd", os.O_RDONLY)
    assert second == first
    clean(ledger)
    ledger.release("owner")
    assert [kind for kind, _ in found(ledger)] == [Kind.DESCRIPTOR]
    os.close(second)
    clean(ledger)


def test_an_owner_has_what_another_had_before(ledger: Ledger) -> None:
    """A descriptor has the number of one that another owner, who still has other things, has closed."""
    with ledger.lasting("earlier"):
        kept = os.open("/etc/group", os.O_RDONLY)
        first = os.open("/etc/passwd", os.O_RDONLY)
    os.close(first)
    ledger.open()
    with ledger.lasting("later"):
        second = os.open("/etc/passwd", os.O_RDONLY)
    assert second == first
    clean(ledger)
    ledger.release("earlier")
    assert found(ledger) == [(Kind.DESCRIPTOR, f"{kept} of kvtest: /etc/group")]
    os.close(kept)
    os.close(second)
    clean(ledger)
