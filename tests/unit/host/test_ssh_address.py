# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from kvtest.errors import UsageError
from kvtest.host.ssh_address import SSHAddress


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "user", "machine", "port", "known_name"),
    [
        ("ssh://lab7", getpass.getuser(), "lab7", 22, "lab7"),
        ("ssh://me@lab7", "me", "lab7", 22, "lab7"),
        ("ssh://me@lab7:2222", "me", "lab7", 2222, "[lab7]:2222"),
        ("ssh://lab7.example.org/", getpass.getuser(), "lab7.example.org", 22, "lab7.example.org"),
        ("ssh://me@[fe80::1]:2222", "me", "fe80::1", 2222, "[fe80::1]:2222"),
    ],
)
def test_what_an_address_means(text: str, user: str, machine: str, port: int, known_name: str) -> None:
    address = SSHAddress.of(text)
    assert (address.user, address.machine, address.port) == (user, machine, port)
    assert address.known_name == known_name


@pytest.mark.parametrize(
    "text",
    [
        "ssh://",
        "ssh://me@",
        "ssh://lab7:port",
        "ssh://lab7:70000",
        "ssh://me:secret@lab7",
        "ssh://lab7/tmp",
        "scp://lab7",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="is no host") as refused:
        SSHAddress.of(text)
    assert "ssh://[USER@]MACHINE[:PORT]" in str(refused.value.hint)


def test_the_configuration_of_ssh_counts(home: Path) -> None:
    (home / ".ssh/config").write_text(
        "Host Lab7\n HostName 192.0.2.7\n User tester\n Port 2222\n IdentityFile ~/.ssh/lab\n"
        " UserKnownHostsFile ~/.ssh/known_labs\n"
    )
    address = SSHAddress.of("ssh://Lab7")
    assert (address.user, address.machine, address.port) == ("tester", "192.0.2.7", 2222)
    assert address.keys == (home / ".ssh/lab",)
    assert address.known_hosts[0] == home / ".ssh/known_labs"
    said = SSHAddress.of("ssh://me@Lab7:22", home / "key", home / "known")
    assert (said.user, said.port, said.keys, said.known_hosts) == ("me", 22, (home / "key",), (home / "known",))
    assert said.flags == ("--host=ssh://me@Lab7:22", f"--ssh-key={home}/key", f"--ssh-known-hosts={home}/known")


@pytest.mark.parametrize("option", ["ProxyJump gate", "ProxyCommand nc %h %p"])
def test_what_is_reached_through_another_machine_is_refused(home: Path, option: str) -> None:
    (home / ".ssh/config").write_text(f"Host lab7\n {option}\n")
    name = option.split(maxsplit=1)[0].lower()
    with pytest.raises(UsageError, match=f"through {name}, which kvtest does not do") as refused:
        SSHAddress.of("ssh://lab7")
    assert "ssh -N -L" in str(refused.value.hint)
    (home / ".ssh/config").write_text("Host lab7\n ProxyJump none\n")
    assert SSHAddress.of("ssh://lab7").machine == "lab7"
