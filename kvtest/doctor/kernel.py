# SPDX-License-Identifier: Apache-2.0
"""The host's kernel and its vhost-vsock device (Kata's document on VSOCKs, "System requirements")."""

from __future__ import annotations

from collections.abc import Iterator

from kvtest.doctor.report import HOST_VSOCK, Check, Finding, Status
from kvtest.doctor.system import VHOST_VSOCK, System
from kvtest.doctor.transports import commands, rivals
from kvtest.settings import Settings

OLDEST = (4, 8)
MODULE = "vhost_vsock"
OPTION = "CONFIG_VHOST_VSOCK"
LOAD = ("modprobe", "-i", MODULE)


def _release(system: System, _settings: Settings) -> Iterator[Finding]:
    if system.kernel_version < OLDEST:
        found = f"{system.kernel}; vhost-vsock came with 4.8"
        yield Finding("host kernel", found, Status.MISSING, HOST_VSOCK, "boot a kernel of 4.8 or newer")
    else:
        yield Finding("host kernel", system.kernel, Status.OK, HOST_VSOCK)


def _module(system: System, _settings: Settings) -> Iterator[Finding]:
    modules, configured = system.modules, _configured(system)
    if MODULE in modules.builtin or (configured is not None and configured[0] == "y"):
        yield Finding(MODULE, "built into the kernel", Status.OK, HOST_VSOCK)
    elif MODULE in modules.loaded:
        yield Finding(MODULE, "loaded", Status.OK, HOST_VSOCK)
    elif MODULE in modules.available:
        rival = next(rivals(system), None)  # with one in the way, loading fails
        cure, fix = (" ".join(LOAD), LOAD) if rival is None else (commands(system, rival), None)
        yield Finding(MODULE, "not loaded", Status.MISSING, HOST_VSOCK, cure, fix)
    elif configured is not None and configured[0] == "m":
        found = f"{OPTION}=m says {configured[1]}, but there is no such module for {system.kernel}"
        cure = "install the kernel's modules: apt-get install linux-modules-extra-$(uname -r) (Ubuntu), or reboot"
        yield Finding(MODULE, found, Status.MISSING, HOST_VSOCK, cure)
    elif configured is not None:
        found = f"{OPTION} is not set, says {configured[1]}"
        yield Finding(MODULE, found, Status.MISSING, HOST_VSOCK, f"boot a kernel with {OPTION}=m")
    else:
        found = "not loaded, no such module, and nothing tells how the kernel was configured"
        yield Finding(MODULE, found, Status.MISSING, HOST_VSOCK, " ".join(LOAD))


def _configured(system: System) -> tuple[str, str] | None:
    """Return the option's value, ``n`` if it is not set, and where that is from."""
    if system.configuration is None:
        return None
    return system.configuration.options.get(OPTION, "n"), system.configuration.source


def _device(system: System, settings: Settings) -> Iterator[Finding]:
    device = system.vhost_vsock
    if not device.exists:
        (module,) = _module(system, settings)
        cure = module.cure or f"mknod {VHOST_VSOCK} c 10 241"  # linux/miscdevice.h, VHOST_VSOCK_MINOR
        yield Finding(VHOST_VSOCK, "not there", Status.MISSING, HOST_VSOCK, cure)
    elif device.problem is not None:
        reload, allow = f"modprobe -r {MODULE}\n{' '.join(LOAD)}", f"sudo setfacl -m u:$USER:rw {VHOST_VSOCK}"
        cure = reload if system.root else allow
        yield Finding(VHOST_VSOCK, device.problem, Status.MISSING, HOST_VSOCK, cure)
    else:
        yield Finding(VHOST_VSOCK, "opens, and reserves a CID", Status.OK, HOST_VSOCK)


CHECKS = (
    Check("host kernel", HOST_VSOCK, _release),
    Check(MODULE, HOST_VSOCK, _module),
    Check(VHOST_VSOCK, HOST_VSOCK, _device),
)
