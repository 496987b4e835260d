# SPDX-License-Identifier: Apache-2.0
"""A runtime that was asked for and cannot be run: one message with a hint before any test, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvtest.census import Marks, survey
from kvtest.errors import ShimError
from kvtest.ownership.owner import current_keeper
from kvtest.runtime import profile
from kvtest.runtime.installation import Installation, find_program, root_is_mount_point
from kvtest.runtime.preflight import try_start

CLEAN = {name: text for name, text in os.environ.items() if not name.startswith(("KVTEST_", "PYTEST"))}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: run it with sudo")
needs_a_mount_point = pytest.mark.skipif(
    not root_is_mount_point(), reason="runc makes no containers in a chroot: run it outside"
)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        pytest.param('#!/bin/sh\nprintf "\\377\\376\\000"', "printed what is no address", id="binary"),
        pytest.param("#!/bin/sh\nkill -SEGV $$", "'start' ended (killed by SIGSEGV)", id="crashes"),
        pytest.param("#!/bin/sh\nexec sleep 1000", "did not come to the end of 'start'", id="hangs"),
        pytest.param("#!/no/such/interpreter\n", "its interpreter or loader, is not", id="interpreter"),
    ],
)
def test_nothing_is_left_of_a_shim_that_does_not_start(tmp_path: Path, script: str, message: str) -> None:
    shim = tmp_path / "containerd-shim-test-v2"
    shim.write_text(script)
    shim.chmod(0o700)
    current_keeper()  # lasts as long as this process, and is not what is tested
    before = survey(Marks())
    with pytest.raises(ShimError) as caught:
        try_start(Installation(profile.load("runc"), shim), within=2.0)
    assert message in caught.value.message
    assert caught.value.hint
    assert survey(Marks()) - before == set()


def run(
    directory: Path, *arguments: str, test: str = "test_a_shim_tells and direct"
) -> subprocess.CompletedProcess[str]:
    selection = ["run", "runtime", "-k", test, "-n", "0"]
    return subprocess.run(
        [sys.executable, "-m", "kvtest", *selection, *arguments],
        cwd=directory,
        env=CLEAN,
        capture_output=True,
        text=True,
        check=False,
    )


@needs_root
@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--shim", "./missing"], "missing, the shim of reference", "--shim takes the path of one"),
        (["--shim", "no-such-shim"], "there is no no-such-shim, the shim of reference", "--shim takes the path of one"),
        (["--shim", "./data"], "is not a program", "chmod +x"),
        (["--shim", "./fails"], "'start' ended (exit status 4); it said:\nsorry", "run it by hand"),
        (["--runtime", "runcc"], "unknown runtime 'runcc'", "did you mean 'runc'?"),
        (["--runtime", "./profile.toml"], "unknown key 'cleanup_bund'", "did you mean 'cleanup_bound'?"),
        (["--runtime", "./none.toml"], "cannot read the profile", ""),
        (["--runtime", "kata"], "there is no containerd-shim-kata-v2", "install Kata Containers"),
        (["--runtime-config", "./none.toml"], "there is no", "--runtime-config takes a file"),
        (["--runtime-config", "./profile.toml"], "the profile reference has no configuration file", "[configuration]"),
    ],
)
def test_what_was_asked_for_and_is_not_there_is_one_message(
    tmp_path: Path, arguments: list[str], message: str, hint: str
) -> None:
    if arguments[1] == "kata" and find_program("containerd-shim-kata-v2"):
        pytest.skip("Kata Containers are installed here")
    (tmp_path / "data").write_text("no program")
    (tmp_path / "fails").write_text("#!/bin/sh\necho sorry >&2\nexit 4\n")
    (tmp_path / "fails").chmod(0o700)
    (tmp_path / "profile.toml").write_text(
        'description = "x"\nshim = "x"\nruntime = "x"\ncure = "x"\ncleanup_bund = 3\n'
    )
    completed = run(tmp_path, *arguments)
    said = completed.stdout + completed.stderr
    assert completed.returncode == 2, said
    assert said.count(message) == 1, said
    assert hint in said
    assert "Traceback" not in said
    assert "test session starts" not in said


@needs_root
def test_under_pytest_what_was_asked_for_is_an_error_and_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import pytest\n"
        "@pytest.mark.capability('runtime')\n"
        "@pytest.mark.parametrize('driver', ['direct'], indirect=True)\n"
        "def test_x(pod): pass\n"
    )
    completed = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--kvtest-shim", "./missing"],
        cwd=tmp_path,
        env=CLEAN,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 1
    assert "missing, the shim of reference" in completed.stdout
    assert "1 error" in completed.stdout


@needs_root
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("kvtest", "run", "-n", "0", "--runtime=runc"), marks=needs_a_mount_point),
        pytest.param(("pytest", "--kvtest-runtime=runc"), marks=needs_a_mount_point),
        ("pytest", "-n", "2"),
    ],
)
def test_a_containerd_that_does_not_start_ends_the_run_before_the_first_test(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/containerd").write_text("#!/bin/sh\necho no such plugin >&2\nexit 3\n")
    (tmp_path / "bin/containerd").chmod(0o700)
    (tmp_path / "test_mine.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('driver', ['direct', 'containerd'], indirect=True)\n"
        "@pytest.mark.parametrize('number', range(4))\n"
        "def test_x(pods, number): pods.start()\n"
    )
    completed = subprocess.run(
        [sys.executable, "-m", *command, "test_mine.py"],
        cwd=tmp_path,
        env={**CLEAN, "PATH": f"{tmp_path}/bin:{CLEAN['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = completed.stdout + completed.stderr
    assert completed.returncode == 2, said
    message = f"{tmp_path}/bin/containerd did not start: it ended: exit status 3; its log ends with:\nno such plugin\n"
    assert said.count(message) == 1, said
    assert said.count("hint: run it by hand") == 1
    assert "passed" not in said
    assert "failed" not in said


def test_a_default_runtime_that_is_not_there_is_left_out_with_the_cure(tmp_path: Path) -> None:
    """Whoever has not asked for it gets the other rings, and is told how to get this one."""
    script = (
        "import kvtest.cli, kvtest.runtime.installation, sys\n"
        "find = kvtest.runtime.installation.find_program\n"
        "kvtest.runtime.installation.find_program = lambda name: None if name == 'mkfs.erofs' else find(name)\n"
        "sys.argv = ['kvtest', 'run', 'transport', 'runtime', '-n', '0',\n"
        "    '-k', '(test_a_shim_tells and direct) or the_host_connects']\n"
        "kvtest.cli.main()\n"
    )
    completed = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=CLEAN, capture_output=True, text=True, check=False
    )
    said = completed.stdout + completed.stderr
    assert completed.returncode == 0, said
    assert "1 skipped" in said
    assert (
        "not root, which shims need: run it with sudo"
        if os.geteuid()
        else "apt-get install --no-install-recommends erofs-utils"
    ) in said


@needs_root
@needs_a_mount_point
@pytest.mark.parametrize("driver", ["direct", "containerd"])
def test_the_shim_that_was_asked_for_is_the_one_that_runs(tmp_path: Path, driver: str) -> None:
    """containerd looks for shims by itself."""
    shim = tmp_path / "my-build"
    shim.write_text(
        f'#!/bin/sh\nfor word; do :; done\necho "$word" >>{tmp_path}/asked\nexec containerd-shim-runc-v2 "$@"\n'
    )
    shim.chmod(0o700)
    completed = run(tmp_path, "--shim", str(shim), test=f"test_the_end_is_published_when and SIGKILL and {driver}")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "1 passed" in completed.stdout
    before_the_tests, of_three_containers = ["start"], ["start", "delete"] * 3
    assert sorted((tmp_path / "asked").read_text().split()) == sorted([*before_the_tests, *of_three_containers])
