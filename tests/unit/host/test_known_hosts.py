# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
from pathlib import Path

import attrs
import paramiko
import pytest

from kvtest.errors import HostError
from kvtest.host.known_hosts import check
from kvtest.host.ssh_address import SSHAddress


@pytest.fixture(scope="module")
def key() -> paramiko.PKey:
    return paramiko.ECDSAKey.generate()


@pytest.fixture(scope="module")
def other() -> paramiko.PKey:
    return paramiko.ECDSAKey.generate()


@pytest.fixture
def address(tmp_path: Path) -> SSHAddress:
    address = SSHAddress.of("ssh://lab7.example:2222", known_hosts=tmp_path / "known_hosts")
    return attrs.evolve(address, known_as="")


def _know(address: SSHAddress, *lines: tuple[str, paramiko.PKey]) -> None:
    text = [f"{names} {key.get_name()} {key.get_base64()} a comment\n" for names, key in lines]
    address.known_hosts[0].write_text("".join(text))


@pytest.mark.parametrize(
    "names",
    [
        "[lab7.example]:2222",
        "*",
        "[lab7.example]:*",
        "[lab?.example]:22??",
        "[*.example]:2222",
        "somebody,[LAB7.example]:2222",
        "!lab8.example,[*]:2222",
        # As ssh does: whichever port it is.
        "lab7.example",
        "*.example",
    ],
)
def test_a_machine_is_known_by_a_pattern(address: SSHAddress, key: paramiko.PKey, names: str) -> None:
    _know(address, (names, key))
    check(address, key)


@pytest.mark.parametrize(
    "names",
    [
        "[lab7.example]:22",
        "[lab7.example]",
        "*.test",
        "[lab8.example]:*",
        "lab7",
        "*,!*.example,![lab7.example]:*",
        "!somebody",
        # Brackets are no classes of characters.
        "lab[0-9].example",
        "|1|broken|x",
    ],
)
def test_a_machine_is_not_known_by_a_pattern(address: SSHAddress, key: paramiko.PKey, names: str) -> None:
    _know(address, (names, key))
    with pytest.raises(HostError, match="is in none of "):
        check(address, key)


def test_hashed_names_are_names(address: SSHAddress, key: paramiko.PKey, other: paramiko.PKey) -> None:
    _know(address, ("[lab7.example]:2222", key), ("lab8.example", other))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", address.known_hosts[0]], check=True, capture_output=True)
    assert "lab7" not in address.known_hosts[0].read_text()
    check(address, key)
    with pytest.raises(HostError, match="has changed"):
        check(address, other)


def test_what_is_known_of_the_port_comes_first(address: SSHAddress, key: paramiko.PKey, other: paramiko.PKey) -> None:
    _know(address, ("[lab7.example]:2222", key), ("lab7.example", other))
    check(address, key)
    with pytest.raises(HostError, match="has changed"):
        check(address, other)
    _know(address, ("lab7.example", other))  # another sshd of that machine may have another key
    with pytest.raises(HostError, match="is in none of "):
        check(address, key)


def test_a_machine_is_known_by_its_alias_alone(address: SSHAddress, key: paramiko.PKey) -> None:
    aliased = attrs.evolve(address, known_as="the-lab")
    _know(aliased, ("the-lab", key))
    check(aliased, key)
    _know(aliased, ("[lab7.example]:2222,lab7.example", key))
    with pytest.raises(HostError, match="the key of the-lab is in none of ") as refused:
        check(aliased, key)
    assert str(refused.value.hint).endswith(
        f"ssh-keyscan -p 2222 -t ecdsa lab7.example | sed 's/^[^# ]* /the-lab /' >> {aliased.known_hosts[0]}"
    )


def test_somebody_without_files_of_known_hosts(address: SSHAddress, key: paramiko.PKey) -> None:
    with pytest.raises(HostError, match="is known nowhere; it shows ecdsa-") as refused:
        check(attrs.evolve(address, known_hosts=()), key)
    assert str(refused.value.hint).endswith(">> FILE, and run with --ssh-known-hosts FILE")
