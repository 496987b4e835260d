# SPDX-License-Identifier: Apache-2.0
"""``kvtest run --host ssh://…``: what is brought to another machine, and what its run is told."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kvtest.cache import digest
from kvtest.cli.console import errors, progress
from kvtest.errors import MissingToolError, UsageError
from kvtest.harness import GuestFactory, GuestRequest
from kvtest.harness.factory import AGENT_RECIPE
from kvtest.host.ssh_address import SSHAddress
from kvtest.settings import LoadedSettings
from kvtest.vm.accelerator import KVM_DEVICE
from kvtest.vm.template_cache import portable_name

if TYPE_CHECKING:
    from kvtest.host.cargo import Tree
    from kvtest.host.remote import RemoteHost

# What is about this machine, and has a place of its own on the other.
_OURS = ("cache", "results", "ssh_key", "ssh_known_hosts")
# What names files of this machine, which are not brought.
_FILES = ("agent", "agent_kernel", "agent_initrd", "agent_image", "requirements")
# What names something that kvtest brings, or a file.
_NAMES = ("guest_kernel", "guest_image", "runtime")


def open_remote(host: str, loaded: LoadedSettings, workers: str, *, agent: bool) -> tuple[RemoteHost, list[str]]:
    """Connect to another machine and bring it what it needs.

    Args:
        host: The host, as the user wrote it.
        loaded: The settings of the run.
        workers: How many workers the user has asked for; empty if that is left to kvtest there.
        agent: Whether guests with an agent are wanted.

    Returns:
        The host, and the flags of its run.

    Raises:
        UsageError: There is no such host, or a setting makes no sense there.
        HostError: It cannot be reached, or lacks what kvtest cannot bring.
    """
    from kvtest.host.remote import RemoteHost  # paramiko takes a tenth of a second, and most runs are here

    settings = loaded.settings
    address = SSHAddress.of(host, settings.ssh_key, settings.ssh_known_hosts)
    flags = _flags(host, loaded)
    with progress(f"connecting to {address.machine}"):
        machine = RemoteHost(address, settings.results, settings.qemu)
    try:
        machine.bring(_cargo(loaded, machine, agent=agent), progress)
    except BaseException:
        machine.close()
        raise
    return machine, [*flags, *(["-n", workers] if workers else [])]


def _flags(host: str, loaded: LoadedSettings) -> list[str]:
    """Return what is not left at its default, wherever it was said, as flags."""
    flags = []
    for setting, text, origin in loaded.changed():
        if setting.name in _FILES or (setting.name in _NAMES and "/" in text):
            raise UsageError(
                f"{origin}: {text} is on this machine, and kvtest does not bring it to {host}",
                hint="install kvtest there and run it there",
            )
        if setting.name not in _OURS:
            flags.append(f"{setting.flag}={text}")
    return flags


def _cargo(loaded: LoadedSettings, machine: RemoteHost, *, agent: bool) -> list[Tree]:
    """Return what the run there needs: kvtest, the images of its guests, and templates that can be used there."""
    from kvtest.host import cargo

    settings = loaded.settings
    guests = GuestFactory(settings, settings.results / "guests", progress=progress)
    with progress("looking at what is to be brought"):
        trees = [cargo.site()]
    same = _same_machine(guests, machine)
    for kernel, recipe in itertools.product(settings.guest_kernel, [None, AGENT_RECIPE] if agent else [None]):
        trees.append(cargo.of_image(guests.image(kernel, recipe)))
        if same:
            configuration = guests.configuration(GuestRequest(kernel=kernel, image=recipe))
            trees.append(cargo.of_template(guests.template(configuration), portable_name(configuration)))
    return trees


def _same_machine(guests: GuestFactory, machine: RemoteHost) -> bool:
    """Whether templates that are made here can be used there; if not, they are made there, and stay there."""
    try:
        same = digest(Path(guests.qemu.path)) == machine.there.qemu
    except MissingToolError:  # QEMU is needed only there
        return False
    # Which accelerator is taken there is found out there; it is likely to be another where only one may use KVM.
    if not same or machine.there.kvm != os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        errors.print(f"{machine.address.machine}: has another QEMU or accelerator, and makes its own templates")
        return False
    return True
