# SPDX-License-Identifier: Apache-2.0
"""Ways to break virtio-serial: something between QEMU's socket and the host process that has one fault."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs

from kvtest import SerialPort
from kvtest.harness import RunningMachine
from kvtest.vm.qmp import Monitor
from tests.saboteurs.registry import breaks

_serial_ports: property = vars(RunningMachine)["serial_ports"]
Change = Callable[[bytes], bytes]


def _same(data: bytes) -> bytes:
    return data


class Proxy:
    """Serves one port, every host process over a connection of its own to QEMU, which is made when it has come.

    Args:
        port: QEMU's socket.
        path: Its own.
        to_guest: What it does to what the host sends.
        to_host: What it does to what the guest sends.
    """

    def __init__(self, port: Path, path: Path, to_guest: Change = _same, to_host: Change = _same) -> None:
        self._port = port
        self._to_guest, self._to_host = to_guest, to_host
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._run(self._accept)

    def _run(self, work: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.serve(self._listener.accept()[0])

    def serve(self, client: socket.socket) -> None:
        """Take a host process."""
        qemu = self.connect()
        self._open += [client, qemu]
        self._run(self.pump, client, qemu, self._to_guest)
        self._run(self.pump, qemu, client, self._to_host)

    def connect(self) -> socket.socket:
        """Connect to QEMU."""
        qemu = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        qemu.connect(str(self._port))
        return qemu

    def pump(self, source: socket.socket, target: socket.socket, change: Change) -> None:
        """Move bytes one way until the source ends, then end both."""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                target.sendall(change(data))
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all of it."""
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Crowd(Proxy):
    """Serves all host processes at once: what the guest sends goes to each of them."""

    _qemu: socket.socket | None = None

    def serve(self, client: socket.socket) -> None:
        self._open.append(client)
        if self._qemu is None:
            self._qemu = self.connect()
            self._run(self._broadcast, self._qemu)
        self._run(self._to_qemu, client, self._qemu)

    def _to_qemu(self, client: socket.socket, qemu: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 18):
                qemu.sendall(data)

    def _broadcast(self, qemu: socket.socket) -> None:
        while data := qemu.recv(1 << 18):
            for client in list(self._open):
                with contextlib.suppress(OSError):
                    client.sendall(data)

    def close(self) -> None:
        if self._qemu is not None:
            self._open.append(self._qemu)
        super().close()


class FirstOnly(Proxy):
    """Takes every host process, and serves the first one alone."""

    _served = False

    def serve(self, client: socket.socket) -> None:
        if self._served:
            self._open.append(client)
        else:
            self._served = True
            super().serve(client)


class Clinging(Proxy):
    """Ends nothing when one side has ended."""

    def pump(self, source: socket.socket, target: socket.socket, change: Change) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                target.sendall(data)


class Forgetful(Proxy):
    """Loses what the host sends before the guest has sent anything."""

    _heard = False

    def pump(self, source: socket.socket, target: socket.socket, change: Change) -> None:
        def forget(data: bytes) -> bytes:
            return data if self._heard else b""

        def hear(data: bytes) -> bytes:
            self._heard = True
            return data

        super().pump(source, target, forget if change is self._to_guest else hear)


class SharedThread(Proxy):
    """All ports of a guest share one thread: while one of them waits, so do all."""

    _turn = threading.Lock()

    def pump(self, source: socket.socket, target: socket.socket, change: Change) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                with self._turn:
                    target.sendall(data)


@contextlib.contextmanager
def _behind(make: Callable[[Path, Path], Proxy]) -> Iterator[None]:
    proxies: dict[Path, tuple[Path, Proxy]] = {}
    with tempfile.TemporaryDirectory() as directory:

        def ports(self: RunningMachine) -> list[SerialPort]:
            found = []
            for port in _serial_ports.__get__(self):
                if port.path not in proxies:
                    path = Path(directory) / str(len(proxies))
                    proxies[port.path] = path, make(port.path, path)
                found.append(attrs.evolve(port, path=proxies[port.path][0]))
            return found

        try:
            with patch.object(RunningMachine, "serial_ports", property(ports)):
                yield
        finally:
            for _, proxy in proxies.values():
                proxy.close()


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@breaks("SERIAL-DATA-001")
def flips_a_byte_to_the_guest() -> contextlib.AbstractContextManager[None]:
    """The last byte of each piece arrives changed."""
    return _behind(lambda port, path: Proxy(port, path, to_guest=_flip))


@breaks("SERIAL-DATA-002")
def flips_a_byte_to_the_host() -> contextlib.AbstractContextManager[None]:
    """The last byte of each piece arrives changed."""
    return _behind(lambda port, path: Proxy(port, path, to_host=_flip))


@breaks("SERIAL-DATA-002")
def treats_data_as_text() -> contextlib.AbstractContextManager[None]:
    """A carriage return becomes a line feed, as on a terminal."""
    return _behind(lambda port, path: Proxy(port, path, to_host=lambda data: data.replace(b"\r", b"\n")))


@breaks("SERIAL-CLIENTS-001")
def serves_a_crowd() -> contextlib.AbstractContextManager[None]:
    """Every host process is served at once."""
    return _behind(Crowd)


@breaks("SERIAL-CLIENTS-002")
def serves_only_the_first() -> contextlib.AbstractContextManager[None]:
    """The second host process of a port waits for ever."""
    return _behind(FirstOnly)


@breaks("SERIAL-CLOSE-003")
def forgets_what_came_early() -> contextlib.AbstractContextManager[None]:
    """What the host sends before the guest has opened the port is lost."""
    return _behind(Forgetful)


@breaks("SERIAL-PORTS-001")
def shares_a_thread() -> contextlib.AbstractContextManager[None]:
    """A port that nobody reads stalls the others."""
    return _behind(SharedThread)


@breaks("SERIAL-CLOSE-001", "SERIAL-LOST-001", "SERIAL-LOST-002")
def clings() -> contextlib.AbstractContextManager[None]:
    """The end of one side is not passed on to the other."""
    return _behind(Clinging)


@breaks("SERIAL-NAME-001")
@contextlib.contextmanager
def interchanges_sockets() -> Iterator[None]:
    """The sockets of the ports are interchanged."""

    def ports(self: RunningMachine) -> list[SerialPort]:
        found = _serial_ports.__get__(self)
        return [attrs.evolve(port, path=other.path) for port, other in zip(found, reversed(found), strict=True)]

    with patch.object(RunningMachine, "serial_ports", property(ports)):
        yield


@breaks("SERIAL-NAME-001")
@contextlib.contextmanager
def links_the_wrong_device() -> Iterator[None]:
    """A port's name in the guest leads to another port."""
    with patch.object(SerialPort, "guest_path", "/dev/virtio-ports/org.kvtest.serial.1"):
        yield


@breaks("SERIAL-OPEN-001")
@contextlib.contextmanager
def opens_twice() -> Iterator[None]:
    """A port in the guest is a plain file, which anybody can open at any time."""
    with patch.object(SerialPort, "guest_path", "/etc/machine-id"):
        yield


@breaks("SERIAL-CLOSE-002")
@contextlib.contextmanager
def hides_the_guests_close() -> Iterator[None]:
    """QEMU does not tell that the guest has closed a port."""
    wait_event = Monitor.wait_event

    def wait(self: Monitor, name: str, **conditions: Any) -> Any:
        return wait_event(self, "NEVER" if conditions.get("open") is False else name, **conditions)

    with patch.object(Monitor, "wait_event", wait):
        yield
