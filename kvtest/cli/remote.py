# SPDX-License-Identifier: Apache-2.0
"""``kvtest run --host ssh://…``: what is brought to another machine, and what its run is told."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kvtest.cache import digest
from kvtest.cli.belongings import Belongings, rings_of
from kvtest.cli.console import errors, progress
from kvtest.conformance import Ring
from kvtest.errors import MissingToolError
from kvtest.harness import GuestFactory, GuestRequest
from kvtest.harness.factory import AGENT_PORTS
from kvtest.host import guest_images
from kvtest.host.ssh_address import SSHAddress
from kvtest.image.recipe import AGENT_RECIPE
from kvtest.runtime.agent_place import AgentPlace, agent_place
from kvtest.settings import LoadedSettings, Settings
from kvtest.vm import Configuration
from kvtest.vm.accelerator import KVM_DEVICE
from kvtest.vm.template_cache import portable_name

if TYPE_CHECKING:
    from kvtest.host.cargo import Tree
    from kvtest.host.remote import RemoteHost


def open_remote(
    host: str, loaded: LoadedSettings, what: Sequence[str], workers: str
) -> tuple[RemoteHost, list[str], list[str]]:
    """Connect to another machine and bring it what it needs.

    Args:
        host: The host, as the user wrote it.
        loaded: The settings of the run.
        what: Rings, files or tests.
        workers: How many workers the user has asked for; empty if that is left to kvtest there.

    Returns:
        The host, what it is to run as that is called there, and the flags of its run.

    Raises:
        UsageError: There is no such host, a setting makes no sense there, or something is not there to be brought.
        HostError: It cannot be reached, or lacks what kvtest cannot bring.
    """
    from kvtest.host.remote import RemoteHost  # paramiko takes a tenth of a second, and most runs are here

    settings = loaded.settings
    address = SSHAddress.of(host, settings.ssh_key, settings.ssh_known_hosts)
    belongings = Belongings.of(what, loaded)
    with progress(f"connecting to {address.name}"):
        machine = RemoteHost(address, settings.results, settings.qemu)
    try:
        trees, images = _cargo(settings, machine, rings_of(what))
        machine.bring(trees, progress, parcels=belongings.parcels, images=images)
    except BaseException:
        machine.close()
        raise
    base = machine.there.base
    flags = [*belongings.flags(loaded, base), *(["-n", workers] if workers else [])]
    return machine, list(belongings.named(what, base)), flags


def _cargo(settings: Settings, machine: RemoteHost, rings: Collection[Ring]) -> tuple[list[Tree], dict[str, str]]:
    """Return what the run there needs: kvtest, the images of its guests, and templates that can be used there.

    Args:
        settings: The settings of the run.
        machine: The other machine.
        rings: The rings that are run.

    Returns:
        What is to be brought, and the names of its images by what they are asked for by.
    """
    from kvtest.host import cargo

    guests = GuestFactory(settings, settings.results / "guests", progress=progress)
    with progress("looking at what is to be brought"):
        trees = [cargo.site()]
    rings = guest_images.of_our_images(settings, rings)
    images = guest_images.images(guests, rings)
    trees += [cargo.of_image(image) for image in {image.name: image for image in images.values()}.values()]
    if _same_machine(guests, machine):
        for kind in _kinds(guests, rings):
            trees.append(cargo.of_template(guests.template(kind), portable_name(kind)))
    return trees, {key: image.name for key, image in images.items()}


def _kinds(guests: GuestFactory, rings: Collection[Ring]) -> Iterator[Configuration]:
    """Yield the kinds of guests that have templates."""
    with_agent = Ring.AGENT in rings and agent_place(guests.settings) is not AgentPlace.INIT
    for kernel in guests.settings.guest_kernel:
        yield guests.configuration(GuestRequest(kernel=kernel))
        if with_agent:
            yield guests.configuration(GuestRequest(kernel=kernel, image=AGENT_RECIPE, serial_ports=AGENT_PORTS))


def _same_machine(guests: GuestFactory, machine: RemoteHost) -> bool:
    """Whether templates that are made here can be used there; if not, they are made there, and stay there."""
    try:
        same = digest(Path(guests.qemu.path)) == machine.there.qemu
    except MissingToolError:  # QEMU is needed only there
        return False
    # Which accelerator is taken there is found out there; it is likely to be another where only one may use KVM.
    if not same or machine.there.kvm != os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        errors.print(f"{machine.address.name}: has another QEMU or accelerator, and makes its own templates")
        return False
    return True
