# SPDX-License-Identifier: Apache-2.0
"""What a guest's first process does before anything else: file systems, modules, and giving up where that fails."""

from __future__ import annotations

import errno
import os
import sys
from typing import NoReturn

from kvtest.guest import libc

MODULES = "/etc/kvtest/modules"
ATTEMPTED_MODULES = "/etc/kvtest/modules-attempted"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "TERM": "linux", "LANG": "C.UTF-8"}
_MOUNTS = (
    ("proc", "/proc", "proc", ""),
    ("sysfs", "/sys", "sysfs", ""),
    ("devtmpfs", "/dev", "devtmpfs", "mode=0755"),
    ("devpts", "/dev/pts", "devpts", "mode=0620,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "tmpfs", "mode=1777"),
    ("tmpfs", "/run", "tmpfs", "mode=0755"),
    ("tmpfs", "/tmp", "tmpfs", "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
)
# The kernel would gather its memory statistics each second, and with an unlucky template every clone begins with that.
_SYSTEM_SETTINGS = {"vm/stat_interval": "3600"}


def mount_all() -> None:
    """Mount what every process of a guest takes for granted, where the kernel has not.

    Raises:
        OSError: One of the file systems cannot be mounted.
    """
    for source, target, kind, data in _MOUNTS:
        os.makedirs(target, exist_ok=True)
        try:
            libc.mount(source, target, kind, data)
        except OSError as error:
            if error.errno != errno.EBUSY:  # the kernel has mounted it already
                raise


def configure() -> None:
    """Set what clones gain from.

    Raises:
        OSError: The kernel refused it.
    """
    for name, value in _SYSTEM_SETTINGS.items():
        with open(f"/proc/sys/{name}", "w", encoding="ascii") as stream:
            stream.write(value)


def unmount_all() -> None:
    """Leave the root file system as the kernel gave it to the first process."""
    for _, target, _, _ in reversed(_MOUNTS):
        libc.unmount(target)


def load_modules() -> None:
    """Load the modules of the image.

    Raises:
        RuntimeError: One of them was refused.
    """
    with open(MODULES, encoding="utf-8") as stream:
        paths = stream.read().split()
    if paths:
        # One process for all: starting one takes longer than loading a module.
        names = [os.path.basename(path).removesuffix(".ko") for path in paths]
        status = os.spawnv(os.P_WAIT, "/usr/sbin/modprobe", ["modprobe", "--all", *names])
        if status != 0:
            raise RuntimeError(f"modprobe {' '.join(names)} exited with status {status}")
    with open(ATTEMPTED_MODULES, encoding="utf-8") as stream:
        for name in stream.read().split():
            os.spawnv(os.P_WAIT, "/usr/sbin/modprobe", ["modprobe", "--quiet", name])


def give_up(reason: str) -> NoReturn:
    """Tell the console why, and end; the first process's end panics the kernel."""
    print(f"kvtest-init: {reason}", flush=True)
    sys.stderr.flush()
    os._exit(1)
