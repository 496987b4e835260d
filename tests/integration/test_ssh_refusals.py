# SPDX-License-Identifier: Apache-2.0
"""Machines that cannot be used over SSH: one message, and what to do."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kvtest.errors import HostError, MissingToolError, UsageError
from kvtest.host import cargo
from kvtest.host.remote import RemoteHost
from kvtest.host.ssh import connect
from kvtest.host.ssh_address import SSHAddress
from kvtest.settings import Settings
from tests.sshd import PASSPHRASE, Sshd, make_key, programs, run_command, ssh_agent, sshd


def test_no_such_machine() -> None:
    address = SSHAddress.of("ssh://no-such-machine.invalid")
    with pytest.raises(HostError, match=r"could not find a machine no-such-machine.invalid: "):
        connect(address)


def test_nobody_listens(settings: Settings, server: Sshd, tmp_path: Path) -> None:
    command = run_command(server, settings, "transport", host="ssh://127.0.0.1:1")
    completed = subprocess.run(
        command, cwd=tmp_path, env=server.environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 2
    expected = "kvtest: ssh://127.0.0.1:1: could not connect to 127.0.0.1 port 1: Connection refused\n  hint: "
    assert expected in completed.stderr


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_key_that_is_not_let_in(server: Sshd, tmp_path: Path, kind: str) -> None:
    make_key(tmp_path / "wrong", kind)
    address = SSHAddress.of(server.host, tmp_path / "wrong", server.home / ".ssh/known_hosts")
    with pytest.raises(HostError, match="lets nobody in as") as refused:
        connect(address)
    assert refused.value.message.endswith(f"({tmp_path / 'wrong'}): Authentication failed")
    assert f"ssh-copy-id -p {server.port} " in str(refused.value.hint)


def test_keys_that_are_too_many(server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    names = [make_key(tmp_path / f".ssh/{number}") for number in range(7)]  # sshd takes six
    (tmp_path / ".ssh/config").write_text("".join(f"IdentityFile {name}\n" for name in names))
    with pytest.raises(HostError, match=r"it ended the connection after 6 of them; --ssh-key chooses one"):
        connect(SSHAddress.of(server.host, known_hosts=server.home / ".ssh/known_hosts"))


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


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host=ssh://[::1"], "'ssh://[::1' is no host"),
        (
            ["--host=ssh://127.0.0.1:port"],
            "'ssh://127.0.0.1:port' is no host: 'port' is no port, which is a number from 1",
        ),
        (["--host=ssh://me:secret@127.0.0.1"], "'ssh://me:…@127.0.0.1' is no host: it has a password, and passwords"),
        (["--host=ssh://127.0.0.1:1", "--ssh-key=/etc/passwd"], "--ssh-key: /etc/passwd is no private key"),
    ],
)
def test_typos_are_one_message(server: Sshd, tmp_path: Path, flags: list[str], said: str) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "kvtest", "run", "transport", *flags],
        cwd=tmp_path,
        env=server.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 2, completed.stderr
    assert completed.stderr.startswith(f"kvtest: {said}")
    assert completed.stderr.splitlines()[1].startswith("  hint: ")
    assert len(completed.stderr.splitlines()) == 2


def test_a_key_with_a_passphrase_is_used_where_the_agent_has_it(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    shutil.copy(server.home / ".ssh/id_ed25519", key)
    command = ["ssh-keygen", "-q", "-p", "-N", PASSPHRASE, "-f", str(key)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    address = SSHAddress.of(server.host, key, server.home / ".ssh/known_hosts")
    with ssh_agent(tmp_path) as (place, add):
        monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
        with pytest.raises(UsageError, match=f"{key} has a passphrase, for which kvtest does not ask"):
            connect(address)
        add(key)
        connect(address).close()


def test_a_machine_is_reached_as_ssh_is_configured(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text(f"Include {tmp_path}/labs\n")
    (tmp_path / "labs").write_text(
        f"Host lab7\n HostName 127.0.0.1\n Port {server.port}\n HostKeyAlias lab7.example\n"
        f" IdentityFile {server.home}/.ssh/id_ed25519\n"
    )
    key = (server.base / "host_ed25519.pub").read_text()
    (tmp_path / ".ssh/known_hosts").write_text(f"!lab8.example,*.example {key}")
    address = SSHAddress.of("ssh://lab7")
    connect(address).close()
    (tmp_path / ".ssh/known_hosts").write_text("")
    with pytest.raises(HostError, match=r"the key of lab7.example is in none of ") as refused:
        connect(address)
    command = str(refused.value.hint).partition("add it: ")[2]
    subprocess.run(command, shell=True, check=True, stderr=subprocess.DEVNULL)
    connect(address).close()


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
        RemoteHost(server.address, tmp_path)
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
        RemoteHost(server.address, tmp_path)


def test_a_machine_without_qemu(machine_with: Callable[..., Sshd], tmp_path: Path) -> None:
    server = machine_with({"PATH": str(programs(tmp_path / "bin", "sh", "python3"))})
    with pytest.raises(MissingToolError, match=r"127.0.0.1 has no QEMU \(qemu-system-x86_64 was") as refused:
        RemoteHost(server.address, tmp_path)
    assert "apt-get install --no-install-recommends qemu-system-x86" in str(refused.value.hint)
    assert list((server.cache / "runs").iterdir()) == []


def test_a_login_that_talks(machine_with: Callable[..., Sshd], tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("echo Welcome to this machine\n")
    server = machine_with({"BASH_ENV": str(tmp_path / "profile")})
    with RemoteHost(server.address, tmp_path) as host:
        assert host.there.qemu is not None


def test_a_machine_without_room(machine_with: Callable[..., Sshd], tmp_path: Path) -> None:
    (tmp_path / "sshd/there").mkdir(parents=True)
    mount = f'mount -t tmpfs -o size=4m none {tmp_path / "sshd/there"} && exec "$@"'
    wrapper = ("unshare", "--mount", "sh", "-c", mount, "sh")
    if subprocess.run([*wrapper, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    server = machine_with({}, wrapper=wrapper)
    with (
        RemoteHost(server.address, tmp_path) as host,
        pytest.raises(HostError, match=r"not enough room on 127.0.0.1: \d+ MiB are to be brought, and 4 MiB"),
    ):
        host.bring([cargo.site()])
    # What is found out only while it is written.
    with RemoteHost(server.address, tmp_path) as host, pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvtest.host.remote._ROOM", -(1 << 40))
        with pytest.raises(HostError, match=r"not enough room on 127.0.0.1: .*: No space left on device"):
            host.bring([cargo.site()])


def test_what_is_not_there_to_be_brought_is_told_before_anything_is_done(server: Sshd, tmp_path: Path) -> None:
    nobody = "ssh://127.0.0.1:1"  # nobody was asked
    command = [sys.executable, "-m", "kvtest", "run", "runtime", f"--host={nobody}", "--shim=./gone"]
    completed = subprocess.run(
        command, cwd=tmp_path, env=server.environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 2
    assert completed.stderr.splitlines() == [
        f"kvtest: --shim: there is no file {tmp_path}/gone to be brought",
        "  hint: give the path of a file here",
    ]
