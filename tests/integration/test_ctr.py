# SPDX-License-Identifier: Apache-2.0
"""Our shim below a real containerd, as a user runs it by hand: with ctr, and nothing of kvtest around it."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from kvtest.deadline import Deadline
from kvtest.ownership import RunDirectory
from kvtest.runtime import rootfs
from kvtest.runtime.containerd_process import BUNDLES, STARTING_SECONDS, ContainerdProcess, find_containerd
from kvtest.runtime.installation import find
from kvtest.settings import Settings

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: run it with sudo"),
    pytest.mark.skipif(shutil.which("ctr") is None, reason="no ctr: apt-get install containerd"),
]
RUNTIME = ("--runtime", "io.containerd.kvtest.v2", "--rootfs")
PATIENCE = 300  # the template of pods may have to be made first


class Ctr:
    """ctr, and the containerd that it asks.

    Args:
        containerd: It.
    """

    def __init__(self, containerd: ContainerdProcess) -> None:
        self._command = ["ctr", "--address", str(containerd.socket), "--namespace", "kvtest"]
        self._fifos = containerd.directory / "fifo"

    def command(self, *words: str) -> list[str]:
        """Return a command line; the streams of what it runs are in a directory of ours."""
        action = next(number for number, word in enumerate(words, 1) if word not in ("task", "container"))
        fifos = ["--fifo-dir", str(self._fifos)] if words[action - 1] in ("run", "exec") else []
        return [*self._command, *words[:action], *fifos, *words[action:]]

    def run(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            input=text,
        )


@pytest.fixture
def ctr(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ctr]:
    monkeypatch.setenv("KVTEST_CACHE", str(settings.cache))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # containerd's, to find our shim
    installation = find(attrs.evolve(settings, runtime="reference"))
    with RunDirectory() as directory:
        directory.own_sockets_in(f"{BUNDLES}/*/*/address")
        containerd = ContainerdProcess(directory.path, find_containerd(), installation)
        containerd.start(Deadline(STARTING_SECONDS))
        yield Ctr(containerd)
        containerd.close()


def test_ctr_runs_a_container(ctr: Ctr, tmp_path: Path) -> None:
    name = f"kvtest-{secrets.token_hex(5)}"
    files = tmp_path / "rootfs"
    rootfs.make(files)
    (tmp_path / "hosts").write_text("192.0.2.1 elsewhere\n")
    binds = ("--mount", f"type=bind,src={tmp_path}/hosts,dst=/etc/hosts,options=rbind:rw")
    first = ("/bin/sh", "-c", "cat /etc/hosts; echo said >&2; read word; echo $word; exit 7")
    run = subprocess.Popen(
        ctr.command("run", "--rm", *RUNTIME, *binds, str(files), name, *first),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with run:
        try:
            assert run.stdin is not None
            assert run.stdout is not None
            assert run.stdout.readline() == "192.0.2.1 elsewhere\n", run.communicate(timeout=PATIENCE)

            told = ctr.run("task", "exec", "--exec-id", "another", name, "/bin/sh", "-c", "echo x >/etc/hosts; exit 3")
            assert told.returncode == 3
            assert "Read-only file system" in told.stderr
            assert ctr.run("task", "pause", name).returncode == 0
            assert "PAUSED" in ctr.run("task", "ls").stdout
            assert ctr.run("task", "resume", name).returncode == 0
            assert "memory.usage_in_bytes" in ctr.run("task", "metrics", name).stdout

            # Another container of the pod, as those of Kubernetes are.
            pod = ("--annotation", f"io.kubernetes.cri.sandbox-id={name}")
            binds = ("--mount", "type=bind,src=/dev/null,dst=/etc/hosts,options=rbind")
            told = ctr.run("run", "--rm", *RUNTIME, *pod, *binds, str(files), f"{name}-2", "/bin/true")
            assert told.returncode == 1
            assert "cannot bind /dev/null at /etc/hosts: /dev/null is neither a file nor a directory" in told.stderr

            out, error = run.communicate("word\n", timeout=PATIENCE)
        finally:
            run.kill()
    assert (run.returncode, out, error) == (7, "word\n", "said\n")
    assert name not in ctr.run("container", "ls").stdout


def test_ctr_attaches_to_a_container(ctr: Ctr, tmp_path: Path) -> None:
    """As a client that did not create it, and so finds its streams by what its shim tells of them."""
    name = f"kvtest-{secrets.token_hex(5)}"
    rootfs.make(tmp_path / "rootfs")
    first = ("/bin/sh", "-c", "read word; echo $word; exit 5")
    told = ctr.run("run", "-d", *RUNTIME, str(tmp_path / "rootfs"), name, *first)
    assert told.returncode == 0, told.stderr
    told = ctr.run("task", "attach", name, text="word\n")
    assert (told.returncode, told.stdout) == (5, "word\n"), told.stderr


def test_output_goes_to_a_file(ctr: Ctr, tmp_path: Path) -> None:
    name = f"kvtest-{secrets.token_hex(5)}"
    rootfs.make(tmp_path / "rootfs")
    log = tmp_path / "of the container" / "log"
    first = ("/bin/sh", "-c", "echo one; echo two >&2")
    told = {
        place: ctr.run("run", "--rm", "--log-uri", place, *RUNTIME, str(tmp_path / "rootfs"), name, *first)
        for place in (log.as_uri(), "binary:///bin/cat", "file:log")
    }
    assert [completed.returncode for completed in told.values()] == [0, 1, 1]
    for place in ("binary:///bin/cat", "file:log"):
        message = f"stdout cannot be {place}: give it a fifo's path, fifo:///PATH or file:///PATH"
        assert message in told[place].stderr
    assert sorted(log.read_text().splitlines()) == ["one", "two"]
