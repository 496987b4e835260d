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
        "ssh://lab7:0",
        "ssh://lab7:\u00b2",
        "ssh://[::1",
        "ssh://[::1]x",
        "ssh://::1",
        "ssh://lab7?x",
        "ssh://-oProxyCommand=x",
        "ssh://me:secret@lab7",
        "ssh://lab7/tmp",
        "scp://lab7",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="is no host") as refused:
        SSHAddress.of(text)
    assert "ssh://[USER@]MACHINE[:PORT]" in str(refused.value.hint)


@pytest.mark.parametrize("text", ["ssh://me:secret@lab7", "ssh://me:se/cret@lab7", "ssh://me:secret@lab7:port"])
def test_passwords_are_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="is no host") as refused:
        SSHAddress.of(text)
    assert "cret" not in str(refused.value)


def test_what_is_wrong_with_an_address_is_said_and_no_password() -> None:
    with pytest.raises(UsageError, match=r"^'ssh://lab7:ssh' is no host: 'ssh' is no port, which is a number from 1 "):
        SSHAddress.of("ssh://lab7:ssh")
    with pytest.raises(
        UsageError, match=r"^'ssh://me:…@lab7' is no host: it has a password, and passwords are not used"
    ):
        SSHAddress.of("ssh://me:secret@lab7")


@pytest.mark.parametrize(
    ("text", "name"),
    [("ssh://lab7", "lab7"), ("ssh://me@lab7/", "me@lab7"), ("ssh://[::1]:2222", "[::1]:2222")],
)
def test_a_machine_is_called_what_the_user_called_it(home: Path, text: str, name: str) -> None:
    (home / ".ssh/config").write_text("Host *\n HostName 192.0.2.7\n User tester\n Port 2222\n")
    assert SSHAddress.of(text).name == name


@pytest.fixture(params=["with ssh", "without ssh"])
def ssh(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Have ssh on ``PATH``, or not; return which."""
    if request.param == "without ssh":
        monkeypatch.setenv("PATH", "/nonexistent")
    return bool(request.param == "with ssh")


@pytest.mark.usefixtures("ssh")
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


@pytest.mark.usefixtures("ssh")
def test_the_alias_of_a_key_counts(home: Path) -> None:
    (home / ".ssh/config").write_text("Host lab7\n HostName 192.0.2.7\n Port 2222\n HostKeyAlias the-lab\n")
    assert SSHAddress.of("ssh://lab7").known_name == "the-lab"
    assert SSHAddress.of("ssh://lab8").known_name == "lab8"


@pytest.mark.usefixtures("ssh")
def test_keys_are_named_by_what_they_are_for(home: Path) -> None:
    (home / ".ssh/config").write_text("Host lab7\n HostName 192.0.2.7\n IdentityFile ~/.ssh/%r@%h\n User me\n")
    address = SSHAddress.of("ssh://lab7")
    assert (address.keys, address.agent) == ((home / ".ssh/me@192.0.2.7",), True)
    with (home / ".ssh/config").open("a") as stream:
        stream.write(" IdentitiesOnly yes\n")
    assert not SSHAddress.of("ssh://lab7").agent
    assert not SSHAddress.of("ssh://lab8", home / "key").agent


@pytest.mark.usefixtures("ssh")
def test_files_of_known_hosts_that_are_none(home: Path) -> None:
    (home / ".ssh/config").write_text("UserKnownHostsFile /dev/null\nGlobalKnownHostsFile none\n")
    assert SSHAddress.of("ssh://lab7").known_hosts == ()
    (home / ".ssh/config").write_text("")
    usual = [home / ".ssh/known_hosts", home / ".ssh/known_hosts2", Path("/etc/ssh/ssh_known_hosts")]
    assert SSHAddress.of("ssh://lab7").known_hosts[:3] == tuple(usual)


def test_what_a_configuration_includes_counts_or_is_refused(home: Path, ssh: bool) -> None:
    (home / "labs").write_text("Host lab7\n Port 2222\n")
    (home / ".ssh/config").write_text(f"Include {home}/labs\nHost *\n Port 22\n")
    if ssh:
        assert SSHAddress.of("ssh://lab7").port == 2222
        return
    with pytest.raises(UsageError, match=r"it includes others, which only ssh can follow") as refused:
        SSHAddress.of("ssh://lab7")
    assert "openssh-client" in str(refused.value.hint)


def test_conditions_of_a_configuration_are_those_of_what_was_written(home: Path) -> None:
    (home / ".ssh/config").write_text("Match user me\n HostName 192.0.2.1\nMatch user you\n HostName 192.0.2.2\n")
    assert [SSHAddress.of(f"ssh://{user}@lab7").machine for user in ("me", "you")] == ["192.0.2.1", "192.0.2.2"]


def test_a_configuration_that_makes_no_sense(home: Path, ssh: bool) -> None:
    (home / ".ssh/config").write_text("Host lab7\n Port no-such-service\n")
    with pytest.raises(UsageError, match=r"no-such-service|[Bb]ad number"):
        SSHAddress.of("ssh://lab7")
    if ssh:
        (home / ".ssh/config").write_text("Host lab7\n Prt 22\n")
        with pytest.raises(UsageError, match=r"ssh cannot use its configuration for lab7: .*line 2: Bad configuration"):
            SSHAddress.of("ssh://lab7")
    (home / ".ssh/config").write_text("Host lab7\n Port ssh\n")  # ssh knows services, where there is /etc/services
    if Path("/etc/services").exists():
        assert SSHAddress.of("ssh://lab7").port == 22
    else:
        with pytest.raises(UsageError, match=r"'ssh' of lab7 is no port|Bad port 'ssh'"):
            SSHAddress.of("ssh://lab7")


@pytest.mark.usefixtures("ssh")
@pytest.mark.parametrize("option", ["ProxyJump gate", "ProxyCommand nc %h %p"])
def test_what_is_reached_through_another_machine_is_refused(home: Path, option: str) -> None:
    (home / ".ssh/config").write_text(f"Host lab7\n {option}\n")
    name = option.split(maxsplit=1)[0].lower()
    with pytest.raises(UsageError, match=f"through {name}, which kvtest does not do") as refused:
        SSHAddress.of("ssh://lab7")
    assert "ssh -N -L" in str(refused.value.hint)
    (home / ".ssh/config").write_text("Host lab7\n ProxyJump none\n")
    assert SSHAddress.of("ssh://lab7").machine == "lab7"


@pytest.mark.usefixtures("ssh")
def test_revoked_keys_of_another_form_are_not_passed_over(home: Path) -> None:
    (home / ".ssh/config").write_text("Host lab7\n RevokedHostKeys /etc/ssh/revoked\n")
    with pytest.raises(UsageError, match="RevokedHostKeys, which kvtest does not read"):
        SSHAddress.of("ssh://lab7")
    assert SSHAddress.of("ssh://lab8").machine == "lab8"
