# SPDX-License-Identifier: Apache-2.0
"""What pods' machines are made of, found out once for many shims, or by one that nobody has told."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import attrs

from kvtest.harness import GuestFactory, GuestRequest
from kvtest.image.recipe import AGENT_RECIPE
from kvtest.ownership import RunDirectory, run_directory
from kvtest.runtime.installation import Installation
from kvtest.runtime.profile import GuestAddress, VirtualMachine
from kvtest.runtime.reference.handover import hand_over
from kvtest.runtime.reference.machine import DISKS
from kvtest.settings import load
from kvtest.transport import Transport
from kvtest.vm import Configuration
from kvtest.vm.template import Template

_CID = r"guest-cid=(?P<cid>[0-9]+)"  # of QEMU's command line
_Place = TypeVar("_Place", bound=GuestAddress)


def configuration(factory: GuestFactory) -> Configuration:
    """Return what a pod's machine is made of.

    Args:
        factory: Makes guests.
    """
    kernel = Transport.VHOST_VSOCK in factory.settings.transport
    over = Transport.VHOST_VSOCK if kernel else Transport.VHOST_USER_VSOCK
    found = factory.configuration(GuestRequest(image=AGENT_RECIPE), vsock=True)
    return attrs.evolve(found, empty_disks=DISKS, transports=frozenset((over,)))


@contextlib.contextmanager
def prepared(installation: Installation, factory: GuestFactory) -> Iterator[Installation]:
    """Make the template of pods, if need be, and keep it; yields the installation with shims that are told of it.

    Args:
        installation: The reference runtime.
        factory: Makes guests as the settings say.
    """
    factory = factory.with_our_agent()
    found = configuration(factory)
    template = factory.template(found)
    profile = installation.profile
    # The shims' run directories are in one of ours: there they are seen, and go if a shim is killed with its keeper.
    with template.in_use(), RunDirectory(factory.settings.run_directory) as directory:
        told = hand_over(attrs.evolve(found, run_directory=directory.path), template)
        profile = attrs.evolve(
            profile,
            environment={**profile.environment, **told},
            owns=(*profile.owns, str(directory.path / run_directory.PATTERN)),
            vm=profile.vm if Transport.VHOST_USER_VSOCK in found.transports else over_the_kernel(profile.vm),
        )
        yield attrs.evolve(installation, profile=profile)


def over_the_kernel(vm: VirtualMachine | None) -> VirtualMachine | None:
    """Return how a machine is found whose vsock is the host kernel's: there console and agent have other addresses.

    Args:
        vm: How others are.
    """
    if vm is None:
        return None
    return attrs.evolve(vm, console=_by_cid(vm.console), agent=_by_cid(vm.agent))


def _by_cid(place: _Place | None) -> _Place | None:
    if place is None:
        return None
    port = place.address.rpartition(":")[2]
    return attrs.evolve(place, found=_CID, address=f"vsock://{{cid}}:{port}")


def find_out(artifacts: Path) -> tuple[Configuration, Template]:
    """Return what a pod's machine is made of by the environment's settings, and its template, made if need be.

    Args:
        artifacts: Gets what there is to be seen if one has to be made.
    """
    factory = GuestFactory(load({}, os.environ, {}, Path("/")).settings, artifacts).with_our_agent()
    found = configuration(factory)
    return found, factory.template(found)
