# SPDX-License-Identifier: Apache-2.0
"""Runtimes through the command line and containerd: what a user is told when it does not work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kvtest.errors import ContainerdError, MissingToolError
from kvtest.ownership import RunDirectory
from kvtest.runtime import containerd
from kvtest.runtime.containerd_process import ContainerdProcess
from kvtest.runtime.installation import root_is_mount_point

ROOT = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not root_is_mount_point(), reason="not root, or in a chroot: run it with sudo, outside"
)


def kvtest(*words: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kvtest", *words], capture_output=True, text=True, check=False, cwd=ROOT, user=user
    )


def test_list_names_every_profile() -> None:
    completed = kvtest("runtime", "list")
    assert completed.returncode == 0, completed.stderr
    for name in ("crun", "kata", "kata-rs", "runc", "runsc"):
        assert f"\n{name} " in f"\n{completed.stdout}"


def test_check_tells_everything_that_is_missing() -> None:
    completed = kvtest("runtime", "check", "kata", "--shim", "/nowhere/shim")
    assert completed.returncode == 2
    assert "missing  there is no /nowhere/shim, the shim of kata\n  hint: " in completed.stdout
    assert "missing  there is no configuration file of kata\n  hint: give it with --runtime-config" in completed.stdout


def test_check_refuses_a_profile_with_an_unknown_key(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('shin = "x"\n')
    completed = kvtest("runtime", "check", str(tmp_path / "mine.toml"))
    assert completed.returncode == 2
    assert completed.stderr == (f"kvtest: {tmp_path}/mine.toml: unknown key 'shin'\n  hint: did you mean 'shim'?\n")


@needs_root
def test_a_run_without_root_says_so(tmp_path: Path) -> None:
    """It skips what root is needed for, unless there is nothing else: that would be a run that tests nothing."""

    def run(*what: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "kvtest",
            "run",
            *what,
            "-n",
            "0",
            "-k",
            "running_container or the_host_connects",
        ]
        return subprocess.run(
            ["unshare", "--user", "--map-user=1000", *command, "--results", str(tmp_path / "results")],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )

    completed = run("transport", "runtime")
    assert "capability 'runtime' is missing: not root, which shims need: run it with sudo" in completed.stdout
    assert re.search(r"^[1-9][0-9]* passed, 2 skipped in", completed.stdout, re.MULTILINE), completed.stdout
    completed = run("runtime")
    assert completed.returncode == 2
    assert completed.stderr == (
        "kvtest: not root, which shims need\n  hint: run it with sudo; the rings transport and agent run without\n"
    )


@pytest.mark.parametrize(
    ("script", "seen"),
    [
        ("echo no such plugin >&2; exit 3", r"it ended: exit status 3; its log ends with:\nno such plugin"),
        ("echo thinking; exec sleep 1000", r"waited 3\.\d s for containerd to be ready; its log ends with:\nthinking"),
    ],
)
def test_a_containerd_that_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, seen: str
) -> None:
    program = tmp_path / "containerd"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(containerd, "STARTING_SECONDS", 3.0)
    with RunDirectory() as directory, pytest.raises(ContainerdError) as caught:
        containerd.Containerd(ContainerdProcess(directory.path, program))
    assert re.match(f"{re.escape(str(program))} did not start: {seen}", str(caught.value))
    assert "hint: run it by hand" in str(caught.value)


def test_a_containerd_that_is_not_there() -> None:
    with RunDirectory() as directory, pytest.raises(MissingToolError):
        containerd.Containerd(ContainerdProcess(directory.path, Path("/nowhere/containerd")))
