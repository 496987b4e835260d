# SPDX-License-Identifier: Apache-2.0
"""A running guest, as suites see it."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from kvtest.control import GuestControl
from kvtest.errors import DeviceError, InternalError, KvtestError
from kvtest.serial import SerialPort
from kvtest.transport import Transport
from kvtest.vm import VM, State
from kvtest.vm.q35 import serial_device
from kvtest.vsock import HybridVsock, KernelVsock, Vsock

_HEALTH_SECONDS = 10.0
_NOBODYS_PORT = 0x6B76_FFFF


class Guest:
    """A guest: its machine, its control daemon and its channels.

    What :class:`kvtest.control.GuestControl` can do can be asked of the guest itself: ``guest.run(["uname", "-r"])``.

    Args:
        vm: The machine, ready.
    """

    def __init__(self, vm: VM) -> None:
        self.vm = vm
        self.control: GuestControl = vm.control
        self.release = vm.release
        self.cid = vm.cid
        # The most used of the control daemon's abilities.
        self.run = self.control.run
        self.start = self.control.start
        self.call = self.control.call
        self.serve = self.control.serve
        self.read_file = self.control.read_file
        self.write_file = self.control.write_file

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

    @property
    def died(self) -> str | None:
        """How the machine ended, in one line, if it has and nobody asked it to."""
        return self.vm.died

    @property
    def broken(self) -> str | None:
        """Why it cannot be used by another test, or ``None`` if it can."""
        if self.vm.state is not State.READY:
            return f"it is {self.vm.state}"
        if self.device_fault is not None:
            return self.device_fault.message
        try:
            self.control.ping(_HEALTH_SECONDS)
        except KvtestError as error:
            return error.message
        return None

    def settle(self) -> None:
        """Wait until its vsock device has all that it gets from QEMU: one that carries a refusal has."""
        if self.vm.vsock_device is not None:
            with contextlib.suppress(ConnectionRefusedError, KvtestError):  # a broken one is for the test to find
                self.vsock.connect(_NOBODYS_PORT, _HEALTH_SECONDS).close()

    def tidy(self) -> None:
        """End what was started in it; one that is dead has nothing left."""
        if self.vm.state is State.READY and self.control.lost is None:
            self.control.tidy()

    def close(self) -> None:
        """End it, however it is."""
        self.vm.close()

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        details: dict[str, Any] = {"state": str(self.vm.state), "kernel": self.release, "cid": self.cid}
        return f"Guest({self.vm.name}, {', '.join(f'{name}={value}' for name, value in details.items())})"
