# SPDX-License-Identifier: Apache-2.0
"""Everything that shapes a machine."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from kvtest.accelerator import Accelerator
from kvtest.start import AgentDisk
from kvtest.transport import EVERYWHERE, Transport
from kvtest.vm.qemu import QEMU


@frozen
class Disk:
    """A disk that a machine has from its start; nothing is written to it.

    Args:
        image: The file, raw.
        kind: What it is to the guest.
    """

    image: Path
    kind: AgentDisk


@frozen
class Configuration:
    """What a machine is made of.

    Args:
        qemu: The QEMU binary.
        accelerator: How instructions are run.
        kernel: The kernel image.
        initramfs: The root file system, if it is not on a disk.
        image: What tells these two from all others; without it no template can be made.
        disk: The disk that the root file system is on.
        controlled: Whether kvtest's control daemon is in the guest, and a channel to it.
        memory: Guest memory in MiB.
        cpus: Number of virtual CPUs.
        transports: Which devices it has besides the control channel.
        serial_ports: Names of the virtio-serial ports for tests, if it has virtio-serial.
        empty_disks: How many disks it has whose contents are written while it runs, to be read by the guest.
        disk_slots: How many disks can be plugged in while it runs.
        guest_cid: Its vsock address, where the host's kernel does not have the device.
        host_cid: Its vsock address where the host's kernel has the device; one that is free there if ``None``.
        kernel_arguments: Words to add to the kernel's command line.
        boot_timeout: Seconds from start until it is ready: to the first answer of the control daemon, if it has one.
        request_timeout: Seconds for one request to the control daemon.
        run_directory: Where the directory for its sockets is made; chosen if ``None``.
    """

    qemu: QEMU
    accelerator: Accelerator
    kernel: Path
    initramfs: Path | None
    image: str = ""
    disk: Disk | None = None
    controlled: bool = True
    memory: int = 256
    cpus: int = 1
    transports: frozenset[Transport] = frozenset(EVERYWHERE)
    serial_ports: tuple[str, ...] = ()
    empty_disks: int = 0
    disk_slots: int = 0
    guest_cid: int = 3
    host_cid: int | None = None
    kernel_arguments: tuple[str, ...] = ()
    boot_timeout: float = 120.0
    request_timeout: float = 30.0
    run_directory: Path | None = None

    @property
    def label(self) -> str:
        """What it is, in few words, for people."""
        return f"{self.kernel.parent.name}, {self.memory} MiB, {self.accelerator}"


@frozen
class ColdBoot:
    """A machine that boots.

    Args:
        memory: A file that is the guest's memory; anonymous if ``None``.
    """

    memory: Path | None = None


@frozen
class Restore:
    """A machine that goes on where a template was frozen.

    Args:
        memory: The file that is, or is copied on write into, the guest's memory.
        shared: Whether the machine writes to that file, as a vhost-user device needs.
        kernel: The beginning of the template's kernel.
        commands: Descriptor of a socket, as QEMU gets it, with the monitor commands that restore the machine.
    """

    memory: Path
    shared: bool
    kernel: Path
    commands: int
