# SPDX-License-Identifier: Apache-2.0
"""A machine, described: all that the checks judge.

Plain values only, so that a description can be a TOML file (:func:`kvtest.typed.structure`).
"""

from __future__ import annotations

import re

from attrs import field, frozen

VHOST_VSOCK = "/dev/vhost-vsock"


@frozen
class Program:
    """A program that was found.

    Args:
        name: Its name.
        path: Where it is.
        target: Where that leads, links followed.
        on_path: Whether it is in a directory of ``PATH``, and not only where its releases put it.
        said: What it printed when asked for its version.
        problem: Why it could not be asked.
    """

    name: str
    path: str
    target: str = ""
    on_path: bool = True
    said: str = ""
    problem: str | None = None

    @property
    def version(self) -> str | None:
        """Its version, such as ``3.2.0``; ``None`` if it does not tell."""
        found = re.search(r"(?<![\w.])v?(\d+\.\d+(?:\.\d+)*)", self.said)
        return found[1] if found else None


@frozen
class KernelModules:
    """Modules by name, with underscores."""

    loaded: tuple[str, ...] = ()
    builtin: tuple[str, ...] = ()
    available: tuple[str, ...] = ()

    def active(self, name: str) -> bool:
        """Return whether it is loaded or built in."""
        return name in self.loaded or name in self.builtin


@frozen
class KernelConfiguration:
    """How the kernel was configured.

    Args:
        source: The file that says so.
        options: Those that concern vsock, such as ``CONFIG_VHOST_VSOCK`` to ``m``; what is not set is not there.
    """

    source: str
    options: dict[str, str] = field(factory=dict)


@frozen
class Device:
    """A device that was tried.

    Args:
        exists: Whether there is a node.
        problem: Why it does not work; ``None`` if it does.
    """

    exists: bool = False
    problem: str | None = None


@frozen
class Emulator:
    """QEMU.

    Args:
        devices: Names of the devices that it offers, by ``-device help``.
        problem: Why it could not be asked.
    """

    devices: tuple[str, ...] = ()
    problem: str | None = None


@frozen
class Room:
    """Bytes that are free; ``None`` where nobody knows."""

    memory: int | None = None
    shared_memory: int | None = None
    cache: int | None = None


@frozen
class System:
    """A machine.

    Args:
        kernel: Release of its kernel, as ``uname -r`` has it.
        root: Whether we are root.
        vendor: Who made the machine, by its firmware (DMI ``sys_vendor``).
        product: What it is (DMI ``product_name``).
        cpu_flags: Flags of its processor (proc(5), ``/proc/cpuinfo``).
        modules: Its kernel's modules.
        configuration: Its kernel's configuration; ``None`` if nothing tells.
        parameters: Of loaded modules, such as ``kvm_intel.nested`` to ``Y``.
        vhost_vsock: ``/dev/vhost-vsock``.
        qemu: The QEMU of the settings.
        services: Units of systemd that are active, of those that the checks know.
        programs: What was found of the programs that the checks know; in the order of ``PATH``.
        files: Text of configuration files by path, of those that are there and can be read.
        links: Where configuration files lead whose path has links in it.
        existing: Absolute paths that those files name and that are there.
        shim: The shim that the settings name.
        found_by_containerd: The shim of Kata that the running containerd finds by its name, links followed; empty if it
            finds none, ``None`` if none runs or it cannot be told.
        runtime_config: The configuration file of the runtime that the settings name.
        kata_conf_file: The variable ``KATA_CONF_FILE``.
        containerd_configuration: What ``containerd config dump`` prints.
        containerd_problem: Why a containerd of our own does not start; ``None`` if it does, or was not tried.
        without_runtime: Whether it lacks the runtime of the settings, or what that needs.
        cgroups: ``v1``, ``v2`` or ``hybrid``.
        room: What is free.
        unseen: What could not be looked at, and why.
    """

    kernel: str
    root: bool = True
    vendor: str = ""
    product: str = ""
    cpu_flags: tuple[str, ...] = ()
    modules: KernelModules = KernelModules()
    configuration: KernelConfiguration | None = None
    parameters: dict[str, str] = field(factory=dict)
    vhost_vsock: Device = Device()
    qemu: Emulator = Emulator()
    services: tuple[str, ...] = ()
    programs: tuple[Program, ...] = ()
    files: dict[str, str] = field(factory=dict)
    links: dict[str, str] = field(factory=dict)
    existing: tuple[str, ...] = ()
    shim: str | None = None
    found_by_containerd: str | None = None
    runtime_config: str | None = None
    kata_conf_file: str | None = None
    containerd_configuration: str | None = None
    containerd_problem: str | None = None
    without_runtime: bool = False
    cgroups: str = "v2"
    room: Room = Room()
    unseen: dict[str, str] = field(factory=dict)

    @property
    def kernel_version(self) -> tuple[int, int]:
        """Major and minor version of the kernel.

        Raises:
            ValueError: The release does not begin with them.
        """
        found = re.match(r"(\d+)\.(\d+)", self.kernel)
        if found is None:
            raise ValueError(f"the kernel calls itself {self.kernel!r}")
        return int(found[1]), int(found[2])

    def found(self, name: str) -> tuple[Program, ...]:
        """Return the programs of a name, the one that a shell would start first."""
        return tuple(program for program in self.programs if program.name == name)
