# SPDX-License-Identifier: Apache-2.0
"""What holds for the vhost-vsock of the host's kernel alone: its addresses, which guests share, and its module."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

import pytest

from kvtest import Guest, LocalHost, Steps, Vsock, requirement
from kvtest.errors import HostError
from kvtest.peers import echo, receive_all, receive_exactly
from kvtest.transport import Transport
from kvtest.vsock.reservation import DEVICE

MODULE = "vhost_vsock"
HOST_PORT = 0x6B76_0004
WAIT = "10000"  # milliseconds: for a moment after the death of a guest, the kernel is still busy with what it had

pytestmark = pytest.mark.parametrize("vsock", [Transport.VHOST_VSOCK], ids=str, indirect=True)
StartGuest = Callable[..., Guest]


def assert_answers(guest: Guest, word: bytes) -> None:
    """Check that the host can talk to a guest; nothing of the connection is left then."""
    with guest.serve(echo) as service, guest.vsock.connect(service.port) as client:
        client.sendall(word)
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == word


@requirement("VSOCK-CID-002")
def test_an_address_is_refused_to_a_second_guest(
    guest: Guest, vsock: Vsock, start_guest: StartGuest, host: LocalHost
) -> None:
    with guest.serve(echo) as service, vsock.connect(service.port) as client:
        with pytest.raises(HostError, match=f"CID {guest.cid} is another guest's"):
            start_guest(cid=guest.cid)
        machine = ["-machine", "q35", "-nodefaults", "-display", "none", "-S"]
        refused = host.run(
            [guest.vm.configuration.qemu.path, *machine, "-device", f"vhost-vsock-pci,guest-cid={guest.cid}"]
        )
        assert refused.code == 1
        assert os.strerror(errno.EADDRINUSE) in refused.stderr.decode()
        client.sendall(b"still mine")
        assert receive_exactly(client, 10) == b"still mine"


def connect_and_wait(port: int) -> Steps:
    """Connect to a port of the host, and stay connected; runs in the guest."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as client:
        client.connect((socket.VMADDR_CID_HOST, port))
        client.sendall(b"up")
        yield "connected"


def collect(port: int) -> Steps:
    """Return what comes over the first connection to a port, and how many others there are; runs in the guest."""
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, port))
    listener.listen()
    yield "listening"
    connection, _ = listener.accept()
    received, others = receive_all(connection), 0
    listener.setblocking(False)
    try:
        while True:
            listener.accept()
            others += 1
    except BlockingIOError:
        yield [received, others]


@pytest.mark.guest(fresh=True)
@requirement("VSOCK-CID-003", "VSOCK-LOST-003")
def test_an_address_is_free_right_after_the_death_of_its_guest(
    guest: Guest, vsock: Vsock, start_guest: StartGuest
) -> None:
    with guest.serve(echo) as service, vsock.connect(service.port) as old, vsock.listen(HOST_PORT) as server:
        old.sendall(b"hello")
        assert receive_exactly(old, 5) == b"hello"
        guest.start(connect_and_wait, HOST_PORT)
        with server.accept() as incoming:
            assert receive_exactly(incoming, 2) == b"up"
            guest.vm.kill()
            successor = start_guest(cid=guest.cid)
            with successor.start(collect, service.port) as peer:
                assert peer.ready == "listening"
                for connection in (old, incoming):
                    with pytest.raises((BrokenPipeError, ConnectionResetError)):
                        connection.sendall(b"from before")
                with successor.vsock.connect(service.port) as new:
                    new.sendall(b"new")
                assert peer.send() == [b"new", 0]


@pytest.mark.measurement  # no other guest is there
@pytest.mark.capability("lab-alone", "vhost-vsock-module")
@pytest.mark.guest(fresh=True)
@requirement("VSOCK-MODULE-001", "VSOCK-MODULE-002")
def test_the_module_goes_and_comes_without_a_guest(
    guest: Guest, vsock: Vsock, start_guest: StartGuest, host: LocalHost
) -> None:
    assert host.run(["modprobe", "-r", MODULE]).code != 0, "the module was removed while a guest used it"
    assert_answers(guest, b"as before")
    guest.vm.kill()
    removed = host.run(["modprobe", "-r", "--wait", WAIT, MODULE])
    assert removed.code == 0, removed.stderr
    assert not os.path.exists(DEVICE)
    with pytest.raises(HostError, match=f"{DEVICE} does not open"):
        start_guest()
    loaded = host.run(["modprobe", "-i", MODULE])
    assert loaded.code == 0, loaded.stderr
    assert os.path.exists(DEVICE), "the module was loaded, and there is no device"
    assert_answers(start_guest(), b"once more")
