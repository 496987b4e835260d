# SPDX-License-Identifier: Apache-2.0
"""What a crash of the machine left, and how it goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvtest.deadline import Deadline
from kvtest.guest import libc
from kvtest.ownership import RunDirectory
from kvtest.vm.template_cache import template_cache
from tests.processes import children_of, wait_for_end

ROOT = Path(__file__).parents[2]
OWNER = """
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from kvtest.cache import Store, silent
from kvtest.ownership import RunDirectory

def build(target):
    (target / "half").write_text("x")
    print("ready", flush=True)
    sys.stdin.read()
    return {}

with RunDirectory(Path(sys.argv[1]) / "run") as directory:
    (directory.path / "file").touch()
    elsewhere = Path(sys.argv[1]) / "elsewhere"
    directory.own(f"{elsewhere}/pod-*")
    directory.own_sockets_in("bundles/*/address")
    (elsewhere / "pod-1").mkdir(parents=True)
    (elsewhere / "pod-1/state.json").touch()
    (elsewhere / "others").touch()
    socket.socket(socket.AF_UNIX).bind(str(elsewhere / "shim"))
    for name in ("shim", "others"):
        (directory.path / "bundles" / name).mkdir(parents=True)
        (directory.path / "bundles" / name / "address").write_text(f"unix://{elsewhere}/{name}")
    Store(Path(sys.argv[1]) / "cache/images").get("entry", build, silent)
"""


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are too long for sockets
        yield Path(directory)


def gc(base: Path, *arguments: str) -> list[str]:
    """Run it and return what it said of our own directory: this machine may have leftovers of others."""
    command = [sys.executable, "-m", "kvtest", "gc", f"--cache={base}/cache", f"--run-directory={base}/run", *arguments]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=base).stdout
    return [line.split(" /")[0] for line in said.splitlines() if str(base) in line]


@pytest.fixture
def owner(base: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(base)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def left(base: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in (*base.glob("run/*"), *base.glob("cache/images/.building-*")))


def elsewhere(base: Path) -> list[str]:
    return sorted(path.name for path in base.glob("elsewhere/*"))


def test_what_is_in_use_stays(owner: subprocess.Popen[str], base: Path) -> None:
    with owner:
        assert gc(base) == []
        assert left(base) == [".building", "kvtest"]
    assert owner.returncode == 0
    assert left(base) == []


def test_what_nobody_holds_goes(owner: subprocess.Popen[str], base: Path) -> None:
    # The keeper first: as after a crash of the machine, nobody is left who would clear up.
    with owner:
        for child in children_of(owner.pid):
            os.kill(child, signal.SIGKILL)
        owner.kill()
    assert left(base) == [".building", "kvtest"]
    assert elsewhere(base) == ["others", "pod-1", "shim"]
    (base / "run/kvtest-mine").write_text("a file of that name is none of ours")
    assert gc(base, "--dry-run") == ["would remove"] * 4
    assert left(base) == [".building", "kvtest", "kvtest"]
    assert gc(base) == ["removed"] * 4
    assert left(base) == ["kvtest"]
    assert elsewhere(base) == ["others"], "what runtimes keep elsewhere goes with the run directory, and nothing else"
    assert gc(base) == []


def test_an_owner_that_is_killed_leaves_nothing_for_gc(owner: subprocess.Popen[str], base: Path) -> None:
    with owner:
        keepers = [os.pidfd_open(child) for child in children_of(owner.pid)]
        owner.kill()
    assert wait_for_end(keepers, Deadline(20))
    assert left(base) == []
    assert elsewhere(base) == ["others"]


def test_templates_of_a_cache_that_is_gone_go(base: Path) -> None:
    cache = base / "another cache"
    cache.mkdir()
    templates = template_cache(cache).directory
    assert templates.parent.parent == Path("/dev/shm"), "there is too little memory for this test"
    templates.mkdir(parents=True)
    templates.parent.chmod(0o700)
    (templates / "cache").write_text(f"{cache}\n")
    command = [sys.executable, "-m", "kvtest", "gc", f"--cache={base}/cache", "--dry-run"]
    assert str(templates) not in subprocess.run(command, check=True, capture_output=True, text=True, cwd=base).stdout
    cache.rmdir()
    said = subprocess.run(command[:-1], check=True, capture_output=True, text=True, cwd=base).stdout
    assert f"removed {templates}" in said.splitlines()
    assert not templates.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root: run it with sudo")
def test_what_is_mounted_in_what_nobody_holds_goes_too(base: Path) -> None:
    root = base / "run/kvtest-0123abcd/bundle/rootfs"
    root.mkdir(parents=True)
    (base / "run/kvtest-0123abcd").chmod(0o700)
    libc.mount("nothing", str(root), "tmpfs", "")
    (root / "file").touch()
    assert gc(base) == ["removed"]
    assert left(base) == []


def test_what_only_begins_as_ours_stays(base: Path) -> None:
    (base / "run").mkdir()
    for name in ("kvtest-results", "kvtest-0123456x", "kvtest-01234567"):
        (base / "run" / name).mkdir()  # the last one has not the mode of ours
    (base / "run/kvtest-01234567").chmod(0o755)
    assert gc(base) == []
    assert len(list((base / "run").iterdir())) == 3


def test_a_run_directory_is_locked(base: Path) -> None:
    with RunDirectory(base / "run"):
        assert gc(base) == []
