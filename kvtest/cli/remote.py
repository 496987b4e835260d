# SPDX-License-Identifier: Apache-2.0
"""``kvtest run --host ssh://…``: what is brought to another machine, and what its run is told."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kvtest.cache import digest
from kvtest.cli.belongings import Belongings, rings_of
from kvtest.cli.console import errors, progress
from kvtest.conformance import Ring
from kvtest.errors import MissingToolError
from kvtest.harness import GuestFactory, GuestRequest
from kvtest.harness.factory import AGENT_PORTS, AGENT_RECIPE
from kvtest.harness.request import DEFAULT_SERIAL_PORTS
from kvtest.host.ssh_address import SSHAddress
from kvtest.image import brought
from kvtest.runtime.agent_place import AgentPlace, agent_place
from kvtest.runtime.profile import load as load_profile
from kvtest.settings import LoadedSettings, Settings
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
    place = agent_place(settings)
    belongings = Belongings.of(what, loaded)
    agent = _wants_agents(what, settings)
    with progress(f"connecting to {address.machine}"):
        machine = RemoteHost(address, settings.results, settings.qemu)
    try:
        trees, images = _cargo(settings, machine, place if agent else None)
        machine.bring(trees, progress, parcels=belongings.parcels, images=images)
    except BaseException:
        machine.close()
        raise
    base = machine.there.base
    flags = [*belongings.flags(loaded, base), *(["-n", workers] if workers else [])]
    return machine, list(belongings.named(what, base)), flags


def _wants_agents(what: Sequence[str], settings: Settings) -> bool:
    """Whether some of the guests have an agent: those of the agent ring, and the pods of our own runtime."""
    wanting = {Ring.AGENT, Ring.RUNTIME} if load_profile(settings.runtime).own else {Ring.AGENT}
    return not wanting.isdisjoint(rings_of(what))


def _cargo(settings: Settings, machine: RemoteHost, place: AgentPlace | None) -> tuple[list[Tree], dict[str, str]]:
    """Return what the run there needs: kvtest, the images of its guests, and templates that can be used there.

    Args:
        settings: The settings of the run.
        machine: The other machine.
        place: Where the agent under test is; ``None`` if no guest has one.

    Returns:
        What is to be brought, and the names of its images by what they are asked for by.
    """
    from kvtest.host import cargo

    guests = GuestFactory(settings, settings.results / "guests", progress=progress)
    with progress("looking at what is to be brought"):
        trees = [cargo.site()]
    images = {}
    same = _same_machine(guests, machine)
    recipes = [None] if place in (None, AgentPlace.WHOLE, AgentPlace.ADDRESS) else [None, AGENT_RECIPE]
    for kernel, recipe in itertools.product(settings.guest_kernel, recipes):
        image = guests.image(kernel, recipe)
        trees.append(cargo.of_image(image))
        agent, start = (settings.agent, settings.agent_start) if recipe == AGENT_RECIPE else (None, None)
        images[brought.key(kernel, recipe or settings.guest_image, agent, start)] = image.name
        if same and not (recipe == AGENT_RECIPE and place is AgentPlace.INIT):  # which boots for each test
            ports = AGENT_PORTS if recipe == AGENT_RECIPE else DEFAULT_SERIAL_PORTS
            configuration = guests.configuration(GuestRequest(kernel=kernel, image=recipe, serial_ports=ports))
            trees.append(cargo.of_template(guests.template(configuration), portable_name(configuration)))
    return trees, images


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
