# SPDX-License-Identifier: Apache-2.0
"""A machine that is up, whoever lives in it."""

from __future__ import annotations

import abc
import contextlib
import platform
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from kvtest.errors import DeviceError, InternalError, KvtestError
from kvtest.serial import SerialPort
from kvtest.transport import Transport
from kvtest.vm import VM, State
from kvtest.vm.q35 import serial_device
from kvtest.vsock import HybridVsock, KernelVsock, Vsock

HEALTH_SECONDS = 10.0
_NOBODYS_PORT = 0x6B76_FFFF


class RunningMachine(abc.ABC):
    """A machine that is ready, and its channels.

    Args:
        vm: The machine.
        release: The release of its kernel, as far as it is known.
    """

    #: What lives in it, for whoever asks how it is.
    inhabitant: str

    def __init__(self, vm: VM, release: str) -> None:
        self.vm = vm
        self.release = release
        self.cid = vm.cid

    @property
    def vsock(self) -> Vsock:
        """Its vsock, seen from the host."""
        if Transport.VHOST_VSOCK in self.vm.configuration.transports:
            return KernelVsock(self.cid)
        return HybridVsock(self.vm.hybrid_path)

    @property
    def serial_ports(self) -> list[SerialPort]:
        """Its virtio-serial ports for tests."""
        if Transport.VIRTIO_SERIAL not in self.vm.configuration.transports:
            return []
        names = self.vm.configuration.serial_ports
        return [SerialPort(name, self.vm.serial_path(name), serial_device(number)) for number, name in enumerate(names)]

    @property
    def properties(self) -> Mapping[str, str]:
        """What identifies it in results."""
        configuration = self.vm.configuration
        return {
            "guest_kernel": self.release,
            "host_kernel": platform.release(),
            "qemu": configuration.qemu.version,
            "accelerator": configuration.accelerator.value,
        }

    @property
    def device_fault(self) -> DeviceError | InternalError | None:
        """The rule of the vsock device that the guest broke, or the device's own failure, if there was one."""
        return self.vm.vsock_device.fault if self.vm.vsock_device is not None else None

    @abc.abstractmethod
    def state(self, patience: float) -> str:
        """Return how its inhabitant is.

        Args:
            patience: Seconds until an answer.
        """

    @abc.abstractmethod
    def check(self) -> None:
        """Raise a :class:`KvtestError` if its inhabitant does not answer."""

    @property
    @abc.abstractmethod
    def connection_lost(self) -> bool:
        """Whether its inhabitant is known to have gone."""

    @abc.abstractmethod
    def tidy(self) -> None:
        """End what was started in it; one that is dead has nothing left."""

    @property
    def died(self) -> str | None:
        """How the machine ended, in one line, if it has and nobody asked it to."""
        return self.vm.how_it_died(connection_lost=self.connection_lost)

    @property
    def broken(self) -> str | None:
        """Why it cannot be used by another test, or ``None`` if it can."""
        if self.vm.state is not State.READY:
            return f"it is {self.vm.state}"
        if self.device_fault is not None:
            return self.device_fault.message
        try:
            self.check()
        except KvtestError as error:
            return error.message
        return None

    def settle(self) -> None:
        """Wait until its vsock device has all that it gets from QEMU: one that carries a refusal has."""
        if self.vm.vsock_device is not None:
            with contextlib.suppress(ConnectionRefusedError, KvtestError):  # a broken one is for the test to find
                self.vsock.connect(_NOBODYS_PORT, HEALTH_SECONDS).close()

    def close(self) -> None:
        """End it, however it is."""
        self.vm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        details: dict[str, Any] = {"state": str(self.vm.state), "kernel": self.release, "cid": self.cid}
        named = ", ".join(f"{name}={value}" for name, value in details.items())
        return f"{type(self).__name__}({self.vm.name}, {named})"
