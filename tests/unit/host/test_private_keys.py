# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvtest.errors import HostError, UsageError
from kvtest.host import private_keys
from kvtest.host.ssh_address import SSHAddress
from tests.sshd import PASSPHRASE, make_key, ssh_agent


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    return tmp_path


@pytest.fixture
def add(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Run an agent, and give keys to it."""
    with ssh_agent(home) as (place, give):
        monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
        yield give


def _offered(key: Path | None = None) -> private_keys.Offer:
    address = SSHAddress.of("ssh://lab7", key)
    with private_keys.agent(address) as agent:
        return private_keys.offer(address, agent)


def _names(offer: private_keys.Offer) -> list[str]:
    return [one.name for one in offer.keys]


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_key_of_any_kind_is_offered(home: Path, kind: str) -> None:
    key = make_key(home / "key", kind=kind)
    offer = _offered(key)
    assert _names(offer) == [str(key)]
    assert offer.keys[0].key.get_base64() == Path(f"{key}.pub").read_text().split()[1]


def test_a_public_key_is_called_so(home: Path) -> None:
    key = make_key(home / "key")
    with pytest.raises(UsageError, match=rf"^--ssh-key: {key}.pub is a public key\n") as refused:
        _offered(home / "key.pub")
    assert refused.value.hint == f"give the private one that belongs to it: {key}"


@pytest.mark.parametrize(
    "text", [b"root:x:0:0:root:/root:/bin/bash\n", b"", b"\xff\x00", b"-----BEGIN CERTIFICATE-----"]
)
def test_what_is_no_key_is_called_so(home: Path, text: bytes) -> None:
    (home / "file").write_bytes(text)
    with pytest.raises(UsageError, match=rf"^--ssh-key: {home}/file is no private key\n"):
        _offered(home / "file")


def test_a_damaged_key_is_called_so(home: Path) -> None:
    key = make_key(home / "key")
    lines = key.read_text().splitlines()
    key.write_text("\n".join([*lines[:2], lines[-1], ""]))
    with pytest.raises(UsageError, match=rf"^--ssh-key: {key} is a private key that cannot be used: "):
        _offered(key)


def test_a_key_with_a_passphrase_is_for_the_agent(home: Path, add: Callable[[Path], None]) -> None:
    key, other = make_key(home / "key", passphrase=PASSPHRASE), make_key(home / "other")
    add(other)
    with pytest.raises(
        UsageError, match=rf"^--ssh-key: {key} has a passphrase, for which kvtest does not ask"
    ) as found:
        _offered(key)
    assert found.value.hint == f"give it to the agent: ssh-add {key}"
    add(key)
    Path(f"{key}.pub").unlink()  # the private one has it, too
    assert _names(_offered(key)) == [f"{key} of the agent"]  # and no other, as it was chosen
    (home / ".ssh/config").write_text(f"IdentityFile {key}\n")
    assert _names(_offered()) == [f"{key} of the agent", "those of the agent"]
    (home / ".ssh/config").write_text(f"IdentityFile {other}.pub\nIdentitiesOnly yes\n")  # which key of the agent
    assert _names(_offered()) == [f"{other}.pub of the agent"]


def test_a_key_with_a_passphrase_without_an_agent(home: Path) -> None:
    key = make_key(home / ".ssh/id_ed25519", passphrase=PASSPHRASE)
    offer = _offered()
    assert offer.keys == []
    assert offer.unusable[0].reason == f"{key} has a passphrase, for which kvtest does not ask, and no agent has it"
    assert offer.unusable[0].hint == f'give it to the agent: eval "$(ssh-agent)"; ssh-add {key}'


def test_keys_that_are_configured_and_not_there(home: Path, add: Callable[[Path], None]) -> None:
    (home / ".ssh/config").write_text(f"IdentityFile {home}/gone\n")
    with pytest.raises(HostError, match=rf"there is no key {home}/gone\n"):
        _offered()
    add(make_key(home / "other"))
    assert _names(_offered()) == ["those of the agent"]


def test_another_agent_is_asked_or_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_key(home / "key")
    with ssh_agent(home) as (place, add):
        add(key)
        assert _names(_offered()) == []
        (home / ".ssh/config").write_text(f"IdentityAgent {place}\n")
        assert _names(_offered()) == ["those of the agent"]
        assert "SSH_AUTH_SOCK" not in os.environ
        monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
        (home / ".ssh/config").write_text("IdentityAgent none\n")
        assert _names(_offered()) == []
        (home / ".ssh/config").write_text("IdentityAgent SSH_AUTH_SOCK\n")
        assert _names(_offered()) == ["those of the agent"]
        private_keys.check(SSHAddress.of("ssh://lab7", home / "key.pub"))
        other = make_key(home / "other")
        with pytest.raises(UsageError, match=f"{other}.pub is a public key"):
            private_keys.check(SSHAddress.of("ssh://lab7", home / "other.pub"))
