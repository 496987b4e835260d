# SPDX-License-Identifier: Apache-2.0
"""QEMU and what it offers, by its own word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kvtest.accelerator import Accelerator, AcceleratorChoice
from kvtest.doctor.report import GUESTS, HOST_VSOCK, Check, Finding, Need, Status
from kvtest.doctor.system import System
from kvtest.image import ImageCache
from kvtest.settings import Settings
from kvtest.vm import QEMU
from kvtest.vm.accelerator import decide

DEVICES: dict[str, tuple[Need, ...]] = {
    "vhost-user-vsock-pci": GUESTS,
    "virtio-serial-pci": GUESTS,
    "virtserialport": GUESTS,
    "vhost-vsock-pci": HOST_VSOCK,
}
_CURE = "apt-get install qemu-system-x86, or name another with --qemu"


def _qemu(_system: System, settings: Settings) -> Iterator[Finding]:
    qemu = QEMU.find(settings.qemu)
    yield Finding("QEMU", f"{qemu.version} ({qemu.path})", Status.OK, GUESTS)


def _devices(system: System, _settings: Settings) -> Iterator[Finding]:
    if system.qemu.problem is not None:
        found = f"QEMU does not tell: {system.qemu.problem}"
        yield Finding("QEMU devices", found, Status.MISSING, GUESTS, _CURE)
        return
    for device, needed_by in DEVICES.items():
        there = device in system.qemu.devices
        status = Status.OK if there else Status.MISSING
        found = "offered" if there else "not offered by this QEMU"
        yield Finding(device, found, status, needed_by, None if there else _CURE)


def _accelerator(_system: System, settings: Settings) -> Iterator[Finding]:
    image = ImageCache(settings.cache).find(settings.kernel, settings.guest_image)
    if image is None and settings.accelerator is not AcceleratorChoice.TCG:
        found = "known once there is a guest image to try it with"
        yield Finding("accelerator", found, Status.OK, GUESTS, "kvtest image build")
        return
    kernel = image.kernel if image is not None else Path()
    decision = decide(settings.accelerator, QEMU.find(settings.qemu), kernel, settings.cache)
    found = f"{decision.accelerator} ({decision.reason})"
    # TCG does all that KVM does, some ten times slower.
    slow = decision.accelerator is Accelerator.TCG and settings.accelerator is AcceleratorChoice.AUTO
    yield Finding("accelerator", found, Status.WARNING if slow else Status.OK, GUESTS)


CHECKS = (
    Check("QEMU", GUESTS, _qemu),
    Check("QEMU devices", GUESTS, _devices),
    Check("accelerator", GUESTS, _accelerator),
)
