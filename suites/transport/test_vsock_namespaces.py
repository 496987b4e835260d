# SPDX-License-Identifier: Apache-2.0
"""Network namespaces of the host: some share its vsock, others have one of their own (Linux 7.0)."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvtest import Guest, Vsock, requirement
from kvtest.errors import HostError
from kvtest.peers import echo, receive_exactly
from kvtest.transport import Transport
from kvtest.vsock.namespace import NetworkNamespace, unshare_network
from kvtest.vsock.reservation import ReservedCid

MODE = Path("/proc/sys/net/vsock/ns_mode")
CHILD_MODE = MODE.with_name("child_ns_mode")
HOST_PORT = 0x6B76_0005

pytestmark = [
    pytest.mark.parametrize("vsock", [Transport.VHOST_VSOCK], ids=str, indirect=True),
    pytest.mark.capability("root", "vsock-namespaces"),
]


@pytest.fixture
def shared() -> Iterator[NetworkNamespace]:
    """A namespace that shares the vsock of all the others."""
    with NetworkNamespace() as namespace:
        yield namespace


@pytest.fixture
def own() -> Iterator[NetworkNamespace]:
    """A namespace with a vsock of its own; its parent is not ours, where the mode of children is set once."""

    def isolate() -> None:
        CHILD_MODE.write_text("local")
        unshare_network()

    with NetworkNamespace() as namespace:
        namespace.run(isolate)
        yield namespace


def connect(cid: int, port: int) -> socket.socket:
    """Connect to a port of a guest."""
    client = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    client.settimeout(10)
    try:
        client.connect((cid, port))
    except BaseException:
        client.close()
        raise
    return client


def reserve(cid: int) -> str:
    """Return whether a CID is free, or what is said of it."""
    try:
        ReservedCid(cid).close()
    except HostError as error:
        return error.message
    return "free"


@requirement("VSOCK-NAMESPACE-001")
def test_a_namespace_shares_the_guests_of_others(guest: Guest, vsock: Vsock, shared: NetworkNamespace) -> None:
    assert shared.run(MODE.read_text).strip() == "global"
    with guest.serve(echo) as service, shared.run(lambda: connect(guest.cid, service.port)) as client:
        client.sendall(b"from elsewhere")
        assert receive_exactly(client, 14) == b"from elsewhere"
    assert shared.run(lambda: reserve(guest.cid)) == f"CID {guest.cid} is another guest's"


@requirement("VSOCK-NAMESPACE-002", "VSOCK-NAMESPACE-004")
def test_a_namespace_of_its_own_reaches_no_guest_of_others(guest: Guest, vsock: Vsock, own: NetworkNamespace) -> None:
    assert own.run(MODE.read_text).strip() == "local"
    with guest.serve(echo) as service:
        with pytest.raises(OSError, match=r"No such device|No route to host|unreachable|reset by peer"):
            own.run(lambda: connect(guest.cid, service.port)).close()
        with vsock.connect(service.port) as client:
            client.sendall(b"from here")
            assert receive_exactly(client, 9) == b"from here"
    assert own.run(lambda: reserve(guest.cid)) == "free"


@requirement("VSOCK-NAMESPACE-003")
def test_no_guest_of_others_reaches_a_namespace_of_its_own(guest: Guest, vsock: Vsock, own: NetworkNamespace) -> None:
    def connect(port: int) -> int:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as client:
            return client.connect_ex((socket.VMADDR_CID_HOST, port))

    def listen() -> socket.socket:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        listener.bind((socket.VMADDR_CID_ANY, HOST_PORT))
        listener.listen()
        return listener

    with own.run(listen):
        assert errno.errorcode.get(guest.call(connect, HOST_PORT), "connected") == "ECONNRESET"
        with vsock.listen(HOST_PORT):  # which is free, too
            assert guest.call(connect, HOST_PORT) == 0


@requirement("VSOCK-NAMESPACE-004")
def test_the_mode_of_children_is_set_once(guest: Guest, vsock: Vsock, shared: NetworkNamespace) -> None:
    def refusal(mode: str) -> str:
        try:
            CHILD_MODE.write_text(mode)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "taken"

    assert shared.run(lambda: [refusal(mode) for mode in ("local", "local", "global")]) == ["taken", "taken", "EBUSY"]
    assert shared.run(MODE.read_text).strip() == "global"
    shared.run(unshare_network)
    assert shared.run(MODE.read_text).strip() == "local"
    assert shared.run(lambda: refusal("global")) == "EPERM"
