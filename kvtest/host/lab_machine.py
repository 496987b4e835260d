# SPDX-License-Identifier: Apache-2.0
"""The machine of a lab host: a clone of a template, as a guest is, with disks of what it needs plugged in."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from kvtest.accelerator import Accelerator
from kvtest.cache import Progress, silent, trust
from kvtest.control import Process
from kvtest.deadline import SLOWNESS
from kvtest.guest import early
from kvtest.harness import Guest, GuestFactory, GuestRequest
from kvtest.host import bundle
from kvtest.host.kernel_log import DEVICE, WATCHED
from kvtest.host.memory import LAB_MEMORY
from kvtest.image import brought
from kvtest.ownership.use import in_use
from kvtest.settings import Settings
from kvtest.transport import Transport
from kvtest.vm.q35 import disk_port, plug_disk

CACHE = "/work/cache"
SITE = str(bundle.PLACE)
_PLACES = (SITE, "/lab/guests")  # of the disks
_QEMU = "/usr/bin/qemu-system-x86_64"  # of the recipe
_CPUS = 1
_PREPARING_SECONDS = 60.0
# Of an emulated machine, whose guests are run by what is emulated: 27 tests of the runtime ring took eight times as
# long there as here, where another worker was beside them (docs/measurements.md).
_SLOWNESS = 10
# Of a processor's virtualization; loaded at boot. TCG has that of AMD, whatever it runs on, so a lab host without KVM
# below it has KVM all the same.
_KVM_MODULES: tuple[str, ...] = ("kvm_amd", "kvm_intel")


class LabMachine:
    """A lab host's machine, up, with its disks mounted.

    Args:
        settings: The settings of the run.
        kernel: Name of its kernel; the settings' first guest kernel if ``None``.
        site: The disk with kvtest and what it is built on.
        guests: The disk with images and templates of guests, which is the beginning of its cache.
        artifacts: Gets its console and logs.
        progress: Told of the steps of making what it needs.
        label: The beginning of its name.
        images: The names of the guests' images by what they are asked for by (:func:`kvtest.image.brought.key`).

    Attributes:
        guest: The machine.
        kvm: Whether the module of its processor's virtualization is loaded.

    Raises:
        KvtestError: It could not be made, or did not come up.
    """

    def __init__(
        self,
        settings: Settings,
        kernel: str | None,
        site: Path,
        guests: Path,
        artifacts: Path,
        progress: Progress = silent,
        *,
        label: str = "lab",
        images: Mapping[str, str] | None = None,
    ) -> None:
        self._variables = brought.environment(images or {})
        # Whatever its guests have: it has nothing that is under test, and one template.
        settings = attrs.evolve(settings, transport=(Transport.VHOST_VSOCK,))
        factory = GuestFactory(settings, artifacts, label=label, progress=progress)
        self._slowness = _SLOWNESS if factory.accelerator.accelerator is Accelerator.TCG else 1
        request = GuestRequest(kernel=kernel, image=settings.lab_image, memory=LAB_MEMORY, cpus=_CPUS, vsock=False)
        self.guest: Guest = factory.start(attrs.evolve(factory.configuration(request), disk_slots=len(_PLACES)))
        try:
            for number, disk in enumerate((site, guests)):
                with in_use(disk.parent):
                    for command, arguments in plug_disk(number, disk):
                        self.guest.vm.monitor.execute(command, arguments)
            # Part of what a template is known by; an image's files have no times.
            status = os.stat(factory.qemu.path)
            places = {disk_port(number): place for number, place in enumerate(_PLACES)}
            wanted = (places, CACHE, _QEMU, status.st_size, status.st_mtime_ns, _KVM_MODULES)
            self.kvm = bool(self.guest.call(_prepare, *wanted, deadline=_PREPARING_SECONDS))
        except BaseException:
            self.close()
            raise

    def python(self, arguments: Sequence[str]) -> Process:
        """Start Python with kvtest, in the directory ``/work``; what it prints comes on one stream.

        Args:
            arguments: The arguments of ``python3``.
        """
        environment = {
            **self._variables,
            "PYTHONPATH": SITE,
            "HOME": "/work",
            "PYTHONUNBUFFERED": "1",
            WATCHED: str(DEVICE),
        }
        environment[SLOWNESS] = str(self._slowness)
        environment["PATH"] = f"{SITE}/{bundle.PROGRAMS}:{early.ENVIRONMENT['PATH']}"
        command = f"cd /work && exec {shlex.join(['python3', *arguments])} 2>&1"
        return self.guest.control.start_process(["sh", "-c", command], environment=environment)

    def close(self) -> None:
        """End it."""
        self.guest.close()


def _prepare(places: dict[str, str], cache: str, qemu: str, size: int, modified: int, kvm_modules: list[str]) -> bool:
    """Mount the disks, and make of the second a cache that can be written to; runs in the lab.

    Returns:
        Whether a module of the processor's virtualization is loaded.
    """
    import os
    import socket

    from kvtest.guest import libc

    uevents = 15  # NETLINK_KOBJECT_UEVENT (linux/netlink.h); the kernel's own are of group 1
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, uevents) as announced:
        announced.bind((0, 1))
        announced.settimeout(30.0)
        for port, place in places.items():
            # Which of them is vda is a matter of which was found first.
            while not (disks := [n for n in os.listdir("/sys/block") if port in os.readlink(f"/sys/block/{n}")]):
                announced.recv(1 << 16)
            os.makedirs(place, exist_ok=True)
            libc.mount(f"/dev/{disks[0]}", place, "erofs", "", 1)
    os.makedirs("/work", exist_ok=True)
    libc.mount("tmpfs", "/work", "tmpfs", "")
    for path in (cache, "/work/upper", "/work/work"):
        os.makedirs(path)
    libc.mount("overlay", cache, "overlay", f"lowerdir={place},upperdir=/work/upper,workdir=/work/work")
    for store in ("images", "templates"):
        trust(f"{cache}/{store}")  # the disk they are on was checked
    if os.stat(qemu).st_size == size:  # it is the same, and templates know it by that
        os.utime(qemu, ns=(modified, modified))
    return any(os.path.exists(f"/sys/module/{module}") for module in kvm_modules)
