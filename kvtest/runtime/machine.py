# SPDX-License-Identifier: Apache-2.0
"""The virtual machine of a pod, found as its profile says."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from pathlib import Path

from kvtest.runtime.profile import VirtualMachine


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


def command_line(pid: int) -> str:
    """Return the command line of a process.

    Args:
        pid: Its ID.

    Raises:
        OSError: It has ended.
    """
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
