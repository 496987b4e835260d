# SPDX-License-Identifier: Apache-2.0
"""System calls that Python has no names for."""

from __future__ import annotations

import ctypes
import os
import signal

_MS_REC, _MS_SHARED = 0x4000, 0x100000  # mount(2)
_MNT_DETACH = 2  # umount2(2)
_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER = 36
_RB_POWER_OFF = 0x4321FEDC  # reboot(2); the library adds the magic numbers

_library = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, data: str, flags: int = 0) -> None:
    """Mount a file system, with the arguments of the system call.

    Raises:
        OSError: It could not be mounted.
    """
    if _library.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mounting {target}: {os.strerror(number)}")


def share_mounts(target: str) -> None:
    """Have what is mounted and unmounted at a mount or below it seen in other mount namespaces (mount_namespaces(7)).

    Raises:
        OSError: It is none.
    """
    mount("none", target, "", "", _MS_REC | _MS_SHARED)


def unmount(target: str) -> None:
    """Unmount a file system, at the latest when nobody uses it any more."""
    _library.umount2(target.encode(), _MNT_DETACH)


def power_off() -> None:
    """Switch the machine off; returns only if that is not possible."""
    _library.reboot(_RB_POWER_OFF)


def become_subreaper() -> None:
    """Become the parent of every process below this one whose own parent ends."""
    _library.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it ends.

    Args:
        parent: The process that started it. If that one has ended already, so does this process, here.
    """
    _library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
