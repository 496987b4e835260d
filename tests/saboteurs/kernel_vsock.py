# SPDX-License-Identifier: Apache-2.0
"""Ways to break the vhost-vsock of a host's kernel, as seen by whoever uses it.

The kernel itself stays as it is: what stands between it and a test says or does something else.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kvtest import LocalHost
from kvtest.control.processes import Completed
from kvtest.errors import HostError
from kvtest.vsock import KernelVsock
from kvtest.vsock.namespace import NetworkNamespace, unshare_network
from kvtest.vsock.reservation import ReservedCid
from tests.saboteurs.registry import breaks


@breaks("VSOCK-CID-002")
@contextlib.contextmanager
def gives_a_second_guest_another_address() -> Iterator[None]:
    """A guest that wants the context ID of another gets one that is free."""
    reserve = ReservedCid._reserve

    def broken(self: ReservedCid, device: str, candidates: list[int]) -> int:
        return reserve(self, device, [*candidates, *range(candidates[-1] + 1, candidates[-1] + 9)])

    with patch.object(ReservedCid, "_reserve", broken):
        yield


@breaks("VSOCK-CID-003")
@contextlib.contextmanager
def holds_on_to_an_address() -> Iterator[None]:
    """Somebody else than QEMU has the device open, too, until another guest was refused its address."""
    held: list[ReservedCid] = []
    close, reserve = ReservedCid.close, ReservedCid._reserve

    def hold(self: ReservedCid) -> None:
        if hasattr(self, "cid"):
            held.append(self)
        else:
            close(self)

    def let_go(self: ReservedCid, device: str, candidates: list[int]) -> int:
        try:
            return reserve(self, device, candidates)
        except HostError:
            while held:
                close(held.pop())
            raise

    with patch.object(ReservedCid, "close", hold), patch.object(ReservedCid, "_reserve", let_go):
        yield


class _Persistent(socket.socket):
    """A socket that connects once more when its connection is lost."""

    def sendall(self, data: Any, flags: int = 0) -> None:
        cid, port = self.successor
        try:
            super().sendall(data, flags)
        except OSError:
            with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as again:
                again.connect((cid, port))
                again.sendall(data, flags)

    successor: tuple[int, int]


@breaks("VSOCK-LOST-003")
@contextlib.contextmanager
def goes_on_with_the_next_guest() -> Iterator[None]:
    """What is sent on the connection of a dead guest goes to the next one with its address."""
    connect = KernelVsock.connect

    def broken(self: KernelVsock, port: int, timeout: float = 10.0) -> socket.socket:
        persistent = _Persistent(fileno=connect(self, port, timeout).detach())
        persistent.settimeout(timeout)
        persistent.successor = self.cid, port
        return persistent

    with patch.object(KernelVsock, "connect", broken):
        yield


@contextlib.contextmanager
def _modprobe_only_says_so(option: str) -> Iterator[None]:
    """Let ``modprobe`` with an option do nothing, and say that it is done."""
    run = LocalHost.run

    def broken(self: LocalHost, argv: Sequence[str], **rest: Any) -> Completed:
        if list(argv[:2]) == ["modprobe", option]:
            return Completed(tuple(argv), b"", b"", 0, None)
        return run(self, argv, **rest)

    with patch.object(LocalHost, "run", broken):
        yield


@breaks("VSOCK-MODULE-001")
@contextlib.contextmanager
def says_that_the_module_is_gone() -> Iterator[None]:
    """The removal of a module that is in use is not refused."""
    with _modprobe_only_says_so("-r"):
        yield


@breaks("VSOCK-MODULE-002")
@contextlib.contextmanager
def loads_no_module() -> Iterator[None]:
    """The module is not loaded again."""
    try:
        with _modprobe_only_says_so("-i"):
            yield
    finally:
        subprocess.run(["modprobe", "vhost_vsock"], check=True)


@breaks("VSOCK-NAMESPACE-001")
@contextlib.contextmanager
def keeps_namespaces_apart() -> Iterator[None]:
    """A namespace does not share the vsock of its parent."""
    begin = NetworkNamespace.__init__

    def broken(self: NetworkNamespace) -> None:
        begin(self)
        self.run(lambda: Path("/proc/sys/net/vsock/child_ns_mode").write_text("local"))
        self.run(unshare_network)

    with patch.object(NetworkNamespace, "__init__", broken):
        yield


@breaks("VSOCK-NAMESPACE-002", "VSOCK-NAMESPACE-003")
@contextlib.contextmanager
def opens_everything_outside() -> Iterator[None]:
    """What is opened in a namespace belongs to that of all the others."""
    run = NetworkNamespace.run

    def broken(self: NetworkNamespace, function: Callable[[], Any]) -> Any:
        return function() if function.__name__ in ("<lambda>", "listen") else run(self, function)

    with patch.object(NetworkNamespace, "run", broken):
        yield


@breaks("VSOCK-NAMESPACE-004")
@contextlib.contextmanager
def takes_another_mode() -> Iterator[None]:
    """The mode of children can be set again and again."""
    write_text = Path.write_text

    def broken(self: Path, data: str, *arguments: Any, **rest: Any) -> int:
        try:
            return write_text(self, data, *arguments, **rest)
        except OSError:
            if self.name != "child_ns_mode":
                raise
            return len(data)

    with patch.object(Path, "write_text", broken):
        yield
