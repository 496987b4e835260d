# SPDX-License-Identifier: Apache-2.0
"""The command line of our machine: a q35 with nothing that was not asked for, and no network."""

from __future__ import annotations

from pathlib import Path

from kvtest.start import AgentDisk
from kvtest.transport import VSOCKS, Transport
from kvtest.vm.command_line import CommandLine, Group, Option, Value, option, raw
from kvtest.vm.configuration import ColdBoot, Configuration, Disk, Restore
from kvtest.vm.processor import processor
from kvtest.vsock.reservation import ReservedCid

CONTROL_PORT = "org.kvtest.control"
MONITOR_SOCKET = "monitor"
CONTROL_SOCKET = "control"
VHOST_USER_SOCKET = "vhost-user"
HYBRID_SOCKET = "vsock"
DISK_SIZE = 64 << 30
"""Bytes of a disk whose content is written later, and which therefore has to be large enough for any."""
_FIRST_DISK = 0x08  # on the first bus; QEMU fills it from below
_FIRST_DISK_PORT = 0x10
_KERNEL_DEVICE = "vhost-vsock-pci"
_SLOT = "free-slot"  # where the vsock device of a restored machine is plugged in


def serial_socket(number: int) -> str:
    """Return the name of the host socket of serial port ``number``, counted from 0."""
    return f"serial{number}"


def serial_device(number: int) -> str:
    """Return the device ID of serial port ``number``; QEMU's events name it."""
    return f"serial-port{number}"


def command_line(
    configuration: Configuration,
    name: str,
    directory: Path,
    console: Path,
    start: ColdBoot | Restore,
    reserved: ReservedCid | None = None,
) -> CommandLine:
    """Return the command that starts a machine.

    Args:
        configuration: What it is made of.
        name: What QEMU calls it.
        directory: Where its sockets are.
        console: The file that gets its console.
        start: Whether it boots, or goes on where a template was frozen.
        reserved: Its address, if the host's kernel has its vsock device.
    """
    groups = [_machine(configuration, name, start), _boot(configuration, start), _console(directory, console)]
    groups.append(_ports(configuration, directory))
    if configuration.disk is not None:
        groups.append(_disk(configuration.disk))
    if configuration.empty_disks:
        groups.append(_empty_disks(configuration, directory))
    # A machine that is restored has the devices that were frozen; no vsock is among them, so it is plugged in.
    if VSOCKS & configuration.transports and isinstance(start, ColdBoot):
        groups.append(_vsock(directory) if reserved is None else _kernel_vsock(reserved))
    elif reserved is not None:
        groups.append(_address(reserved))
    if Transport.VIRTIO_SERIAL in configuration.transports:
        groups.append(_serial(configuration, directory))
    return CommandLine(configuration.qemu.path, tuple(groups))


def plug_kernel_vsock(descriptor: int) -> list[tuple[str, dict[str, object]]]:
    """Return the QMP commands that plug the host kernel's vsock device into a running machine.

    Args:
        descriptor: What holds its address, as QEMU has inherited it.
    """
    return [("device_add", {"driver": _KERNEL_DEVICE, "id": "vsock", "vhostfd": str(descriptor), "bus": _SLOT})]


def plug_vsock(directory: Path) -> list[tuple[str, dict[str, object]]]:
    """Return the QMP commands that plug our vsock device into a running machine."""
    socket = {"type": "unix", "data": {"path": str(directory / VHOST_USER_SOCKET)}}
    backend = {"type": "socket", "data": {"addr": socket, "server": False}}
    return [
        ("chardev-add", {"id": "vsock", "backend": backend}),
        ("device_add", {"driver": "vhost-user-vsock-pci", "id": "vsock", "chardev": "vsock", "bus": _SLOT}),
    ]


def _machine(configuration: Configuration, name: str, start: ColdBoot | Restore) -> Group:
    return Group(
        "machine",
        (
            option("name", name.replace(" ", "-")),
            option("nodefaults"),
            option("no-user-config"),
            option("no-reboot"),
            option("display", "none"),
            option("sandbox", "on", obsolete="deny", elevateprivileges="deny", spawn="deny", resourcecontrol="deny"),
            option("machine", "q35", accel=configuration.accelerator.value, memory_backend="memory", usb=False),
            raw("cpu", processor(configuration.accelerator)),
            option("smp", str(configuration.cpus)),
            option("m", f"{configuration.memory}M"),
            _memory(configuration, start),
            option("device", "pcie-root-port", id=_SLOT, chassis=1, slot=1),
            *(
                option(
                    "device",
                    "pcie-root-port",
                    id=disk_slot(number),
                    chassis=2 + number,
                    slot=2 + number,
                    addr=f"{_FIRST_DISK_PORT + number:#x}",
                )
                for number in range(configuration.disk_slots)
            ),
        ),
    )


def disk_file(number: int) -> str:
    """Return the name of the file that is the content of disk ``number``, counted from 0."""
    return f"disk{number}"


def disk_path(number: int) -> str:
    """Return the PCI path of disk ``number``, as agents have it: its number on the first bus."""
    return f"{_FIRST_DISK + number:02x}"


def _empty_disks(configuration: Configuration, directory: Path) -> Group:
    options: list[Option] = []
    for number in range(configuration.empty_disks):
        name = disk_file(number)
        file = {"file.driver": "file", "file.filename": str(directory / name)}
        options += [
            Option("blockdev", "", {"driver": "raw", "node-name": name, "read-only": True, **file}),
            option("device", "virtio-blk-pci", drive=name, addr=f"{_FIRST_DISK + number:#x}"),
        ]
    return Group("empty disks", tuple(options))


def disk_slot(number: int) -> str:
    """Return the device ID of a port that a disk can be plugged into."""
    return f"disk-slot-{number}"


def disk_port(number: int) -> str:
    """Return the part of a device's path in sysfs that is the port of a disk's slot."""
    return f"/0000:00:{_FIRST_DISK_PORT + number:02x}.0/"


def plug_disk(number: int, image: Path) -> list[tuple[str, dict[str, object]]]:
    """Return the QMP commands that plug a read-only disk into a running machine."""
    name = f"disk-{number}"
    file = {"driver": "file", "filename": str(image), "read-only": True}
    return [
        ("blockdev-add", {"driver": "raw", "node-name": name, "read-only": True, "file": file}),
        ("device_add", {"driver": "virtio-blk-pci", "id": name, "drive": name, "bus": disk_slot(number)}),
    ]


def _memory(configuration: Configuration, start: ColdBoot | Restore) -> Option:
    size = f"{configuration.memory}M"
    if start.memory is None:
        # A vhost-user device maps guest memory, so it is shared.
        return option("object", "memory-backend-memfd", id="memory", size=size, share=True)
    shared = isinstance(start, ColdBoot) or start.shared
    return option("object", "memory-backend-file", id="memory", size=size, mem_path=start.memory, share=shared)


def _boot(configuration: Configuration, start: ColdBoot | Restore) -> Group:
    # panic=-1 with -no-reboot: a panic ends QEMU at once. The self-tests of ciphers take a fifth of a boot under TCG,
    # and mitigations another: the detours that they make of indirect jumps are what TCG is worst at. Pressure
    # statistics, which nobody reads, would be kept at each wake-up. The kernel's check of its timer counts what comes
    # in while it turns in a loop, and panics where the host has no time for QEMU. What TCG has translated is found
    # again by its virtual address: at random addresses each start of a program is translated anew.
    words = ["console=ttyS0", "quiet", "panic=-1", "oops=panic", "cryptomgr.notests", "mitigations=off", "psi=0"]
    words += ["no_timer_check", "norandmaps"]
    words += configuration.kernel_arguments
    if isinstance(start, Restore):
        return Group(
            "restore",
            (
                # Unused, but where there is a kernel, QEMU adds the ROM that would load it, as the template had.
                raw("kernel", start.kernel),
                raw("incoming", "defer"),
                option("chardev", "socket", id="restore", fd=start.commands),
                option("mon", chardev="restore", mode="control"),
            ),
        )
    initrd = [] if configuration.initramfs is None else [raw("initrd", configuration.initramfs)]
    return Group("boot", (raw("kernel", configuration.kernel), *initrd, raw("append", " ".join(words))))


def _console(directory: Path, console: Path) -> Group:
    return Group(
        "console, monitor",
        (
            option("chardev", "file", id="console", path=console.absolute()),
            raw("serial", "chardev:console"),
            option("chardev", "socket", id="monitor", path=directory / MONITOR_SOCKET),
            option("mon", chardev="monitor", mode="control"),
        ),
    )


def _ports(configuration: Configuration, directory: Path) -> Group:
    bus = option("device", "virtio-serial-pci", id="ports")
    if not configuration.controlled:
        return Group("virtio-serial", (bus,))
    return Group(
        "control",
        (
            bus,
            option("chardev", "socket", id="control", path=directory / CONTROL_SOCKET),
            option("device", "virtserialport", bus="ports.0", nr=1, chardev="control", name=CONTROL_PORT),
        ),
    )


def _disk(disk: Disk) -> Group:
    """Return the options of a disk; the first of its kind, so that its name in the guest is known."""
    drive: dict[str, Value] = {"if": "none", "id": "disk", "format": "raw", "file": disk.image, "readonly": True}
    device = (
        option("device", "nvme", drive="disk", serial="kvtest")
        if disk.kind is AgentDisk.NVME
        else option("device", "virtio-blk-pci", drive="disk")
    )
    return Group("disk", (Option("drive", "", drive), device))


def _vsock(directory: Path) -> Group:
    return Group(
        "vsock",
        (
            option("chardev", "socket", id="vsock", path=directory / VHOST_USER_SOCKET),
            option("device", "vhost-user-vsock-pci", chardev="vsock"),
        ),
    )


def _kernel_vsock(reserved: ReservedCid) -> Group:
    device = option("device", _KERNEL_DEVICE, guest_cid=reserved.cid, vhostfd=reserved.descriptor)
    return Group("vsock", (device,))


def _address(reserved: ReservedCid) -> Group:
    """Return the option with the address of a vsock device that is plugged in later: it tells a machine from others."""
    return Group("vsock", (Option("global", "", {f"{_KERNEL_DEVICE}.guest-cid": reserved.cid}),))


def _serial(configuration: Configuration, directory: Path) -> Group:
    options: list[Option] = []
    for number, name in enumerate(configuration.serial_ports):
        socket = serial_socket(number)
        options += [
            option("chardev", "socket", id=socket, path=directory / socket, server=True, wait=False),
            option(
                "device",
                "virtserialport",
                id=serial_device(number),
                bus="ports.0",
                nr=number + 2,
                chardev=socket,
                name=name,
            ),
        ]
    return Group("serial ports", tuple(options))
