# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from kvtest.errors import UsageError
from kvtest.runtime.agent_address import (
    HybridAddress,
    SerialAddress,
    UnixAddress,
    VsockAddress,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("vsock://3:1024", VsockAddress(3, 1024)),
        ("vsock://4294967294:0", VsockAddress(4294967294, 0)),
        ("hvsock:///run/vm/vsock:1024", HybridAddress("/run/vm/vsock", 1024)),
        ("hvsock:///run/a:b:1024", HybridAddress("/run/a:b", 1024)),
        ("unix:///run/agent.sock", UnixAddress("/run/agent.sock")),
        ("unix://@agent", UnixAddress("@agent")),
        ("serial:///run/vm/ß port", SerialAddress("/run/vm/ß port")),
    ],
)
def test_an_address_is_parsed_and_written_back(text: str, address: object) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "has no scheme", "vsock://CID:PORT"),
        ("/run/agent.sock", "has no scheme", "unix://PATH"),
        ("vsok://3:1024", "unknown scheme", "did you mean 'vsock'?"),
        ("remote:///x", "unknown scheme", "known: vsock, hvsock, unix, serial"),
        ("vsock://3", "not two numbers", "vsock://CID:PORT"),
        ("vsock://-1:1024", "not two numbers", "vsock://CID:PORT"),
        ("vsock://three:1024", "not two numbers", "vsock://CID:PORT"),
        ("vsock://1:1024", "the CID 1, which is not between 3", "itself can listen at unix://@NAME"),
        ("vsock://2:1024", "the CID 2, which is not between 3", "host"),
        ("vsock://4294967295:1024", "the CID 4294967295", "hypervisor"),
        ("vsock://3:4294967296", "the port 4294967296", None),
        ("hvsock:///run/vsock", "does not end with a port", "hvsock://PATH:PORT"),
        ("hvsock://run/vsock:1024", "no absolute path", "hvsock://PATH:PORT"),
        ("hvsock://:1024", "no absolute path", "hvsock://PATH:PORT"),
        ("unix://", "no absolute path", "unix://@NAME"),
        ("unix://@", "no absolute path", "unix://@NAME"),
        ("serial://port", "no absolute path", "serial://PATH"),
        (f"unix:///{'x' * 107}", "more than 107 bytes", None),
    ],
)
def test_what_is_no_address_is_said_to_be_none(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        parse_address(text)
    assert message in refused.value.message
    assert hint is None or hint in (refused.value.hint or "")
