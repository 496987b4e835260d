# SPDX-License-Identifier: Apache-2.0
"""A real sshd on a loopback address, with a user's home on our side and a cache of its own on the other."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kvtest.deadline import Deadline
from kvtest.host.ssh_address import SSHAddress
from kvtest.settings import Settings
from tests.processes import children_of

_PROGRAM = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
_PRIVILEGES = Path("/run/sshd")
PASSPHRASE = "secret"
USUAL_PATH = f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


class Sshd:
    """A running sshd.

    Args:
        base: Directory for its files.
        process: The process.
        port: Where it listens.
    """

    def __init__(self, base: Path, process: subprocess.Popen[bytes], port: int) -> None:
        self.base = base
        self.process = process
        self.port = port
        self.host = f"ssh://127.0.0.1:{port}"

    @property
    def home(self) -> Path:
        """The home of our user, with a key that is let in and the key of the machine."""
        return self.base / "home"

    @property
    def cache(self) -> Path:
        """Where what is brought to the machine stays."""
        return self.base / "there/.cache/kvtest/remote"

    @property
    def address(self) -> SSHAddress:
        """How kvtest reaches it."""
        return SSHAddress.of(self.host, self.home / ".ssh/id_ed25519", self.home / ".ssh/known_hosts")

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a command of our user."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("KVTEST_", "PYTEST", "SSH_"))}
        return {**kept, "HOME": str(self.home), "XDG_CACHE_HOME": ""}

    def session(self) -> list[int]:
        """Return the processes of sshd that serve a connection, of the outermost first."""
        found = []
        for child in children_of(self.process.pid):
            found += [child, *(pid for pid in children_of(child) if b"sshd" in command_of(pid))]
        return found


@contextlib.contextmanager
def sshd(base: Path, environment: Mapping[str, str] | None = None, wrapper: tuple[str, ...] = ()) -> Iterator[Sshd]:
    """Run an sshd.

    Args:
        base: Directory for its files.
        environment: What sessions have in their environment besides.
        wrapper: A command that starts the one that follows.
    """
    assert _PROGRAM is not None, "apt-get install --no-install-recommends openssh-server"
    if os.geteuid() == 0:
        _PRIVILEGES.mkdir(mode=0o755, exist_ok=True)
    ours = base / "home/.ssh"
    ours.mkdir(parents=True, mode=0o700)
    (base / "there").mkdir(exist_ok=True)
    for kind in ("ed25519", "ecdsa"):
        make_key(base / f"host_{kind}", kind)
    make_key(ours / "id_ed25519")
    shutil.copy(ours / "id_ed25519.pub", base / "authorized_keys")
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    there = {"PATH": USUAL_PATH, "HOME": str(base / "there"), **(environment or {})}
    (base / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {base}/host_ed25519\n"
        f"HostKey {base}/host_ecdsa\nAuthorizedKeysFile {base}/authorized_keys\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin prohibit-password\nSetEnv {' '.join(f'{name}={text}' for name, text in there.items())}\n"
    )
    (ours / "known_hosts").write_text(f"[127.0.0.1]:{port} {(base / 'host_ed25519.pub').read_text()}")
    log = base / "log"
    with log.open("wb") as stream:
        command = [*wrapper, _PROGRAM, "-D", "-e", "-f", str(base / "config")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, stdout=stream)
    try:
        assert process.stderr is not None
        _wait_for(process.stderr.fileno(), b"Server listening", Deadline(20.0))
        yield Sshd(base, process, port)
    finally:
        for pid in children_of(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """Make a pair of keys; return the private one."""
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


@contextlib.contextmanager
def ssh_agent(directory: Path) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """Run an agent; yield its socket, and a function that gives it a key whose passphrase, if any, is PASSPHRASE."""
    socket_of_it, ask = directory / "agent", directory / "ask"
    command = ["ssh-agent", "-s", "-a", str(socket_of_it)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    pid = int(said.partition("SSH_AGENT_PID=")[2].partition(";")[0])
    ask.write_text(f"#!/bin/sh\necho {PASSPHRASE}\n")
    ask.chmod(0o700)
    there = {"SSH_AUTH_SOCK": str(socket_of_it), "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}

    def add(path: Path) -> None:
        command = ["ssh-add", "-q", str(path)]
        subprocess.run(command, check=True, env={**os.environ, **there}, stdin=subprocess.DEVNULL)

    try:
        yield socket_of_it, add
    finally:
        os.kill(pid, signal.SIGTERM)


def programs(directory: Path, *names: str) -> Path:
    """Make a directory with some programs of this machine, to be the whole PATH of another."""
    directory.mkdir()
    for name in names:
        found = shutil.which(name, path=USUAL_PATH)
        assert found is not None, name
        (directory / name).symlink_to(found)
    return directory


def _wait_for(descriptor: int, text: bytes, deadline: Deadline) -> None:
    said = b""
    while text not in said:
        assert select.select([descriptor], [], [], deadline.remaining)[0], said
        data = os.read(descriptor, 4096)
        assert data, said
        said += data


def command_of(pid: int) -> bytes:
    """Return the command line of a process; nothing of one that has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def run_command(server: Sshd, settings: Settings, *words: str, host: str | None = None) -> list[str]:
    """Return the command of a run on a machine."""
    command = [sys.executable, "-m", "kvtest", "run", *words, f"--host={host or server.host}"]
    return [*command, f"--cache={settings.cache}"]


def run_on(server: Sshd, settings: Settings, directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run suites on a machine."""
    return subprocess.run(
        run_command(server, settings, *words),
        cwd=directory,
        env=server.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
