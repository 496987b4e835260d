# SPDX-License-Identifier: Apache-2.0
"""The virtual machine of a pod, found as its profile says."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
from pathlib import Path

from kvtest.errors import KvtestError, StateError
from kvtest.runtime.agent_address import AgentAddress, VsockAddress, parse_address
from kvtest.runtime.profile import GuestAddress, Profile, VirtualMachine


def processes_of(machine: VirtualMachine, pod: str) -> list[int]:
    """Return the processes whose command line is as that of a pod's virtual machine.

    Args:
        machine: What the profile says.
        pod: ID of the pod.
    """
    pattern = machine.process.format(pod=pod)
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended
                if fnmatch.fnmatchcase(command_line(int(name)), pattern):
                    found.append(int(name))
    return sorted(found)


def address_in(profile: Profile, pod: str, place: GuestAddress) -> AgentAddress:
    """Return where something in the virtual machine of a pod listens.

    Args:
        profile: The profile of the pod's runtime, which has virtual machines.
        pod: ID of the pod.
        place: What the profile says of it.

    Raises:
        StateError: The virtual machine is not there, or not as the profile says.
        UsageError: What the profile says is no address.
    """
    assert profile.vm is not None
    machines = processes_of(profile.vm, pod)
    if len(machines) != 1:
        raise StateError(f"the pod {pod} has {len(machines)} virtual machines")
    command = command_line(machines[0])
    found = re.search(place.found or "", command)
    if found is None:
        raise StateError(
            f"the profile {profile.name} says {place.found!r} of virtual machines, and this one is {command}",
            hint=f"correct 'found' beside the address {place.address!r}",
        )
    return parse_address(place.address.format(pod=pod, **found.groupdict()))


def cid_of(profile: Profile, pod: str) -> int | None:
    """Return the vsock address of a pod's guest, where its agent is reached over the host's kernel.

    Args:
        profile: The profile of the pod's runtime.
        pod: ID of the pod.
    """
    if profile.vm is None or profile.vm.agent is None or not profile.vm.agent.address.startswith("vsock://"):
        return None
    with contextlib.suppress(KvtestError):  # it has ended already, or is another than the profile says
        address = address_in(profile, pod, profile.vm.agent)
        return address.cid if isinstance(address, VsockAddress) else None
    return None


def command_line(pid: int) -> str:
    """Return the command line of a process.

    Args:
        pid: Its ID.

    Raises:
        OSError: It has ended.
    """
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
