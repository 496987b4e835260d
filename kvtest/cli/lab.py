# SPDX-License-Identifier: Apache-2.0
"""``kvtest run --host lab``: what is asked of a lab host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kvtest.cli.belongings import Belongings, rings_of
from kvtest.cli.console import progress
from kvtest.errors import UsageError
from kvtest.host.lab import BASE, Lab, kernel_of
from kvtest.image.recipe import find_kernel, load_recipe
from kvtest.runtime.profile import load as load_profile
from kvtest.settings import NONE, SETTINGS, LoadedSettings, Settings, load
from kvtest.transport import Transport

# What a lab host is told of the settings that are not left at their defaults.
_PASSED_ON = (
    *("guest_kernel", "guest_image", "memory", "cpus"),
    *("boot_timeout", "request_timeout", "test_timeout", "census_timeout", "census_ignore", "capture"),
    *("agent", "agent_start", "agent_disk", "runtime", "shim", "pods", "pods_in_a_row"),
)
_OF_LABS = "vhost_vsock"  # the module that makes a root file system one of a lab host
# What concerns this machine, on which the lab host is one more guest.
_OURS = (
    *("accelerator", "qemu", "cache", "results", "mirror", "run_directory"),
    *("lab_image", "ssh_key", "ssh_known_hosts"),  # the last two of other hosts of the same run
)


def open_lab(host: str, loaded: LoadedSettings, what: Sequence[str], workers: str) -> tuple[Lab, list[str], list[str]]:
    """Start a lab host and bring it what is the user's own.

    Args:
        host: The host, as the user wrote it.
        loaded: The settings of the run.
        what: Rings, files or tests.
        workers: How many workers the user has asked for; empty if that is left to kvtest there.

    Returns:
        The host, what it is to run as that is called there, and the flags of its run.

    Raises:
        UsageError: There is no such host, a setting makes no sense there, or something is not there to be brought.
        KvtestError: It could not be made, or did not come up.
    """
    kernel, settings = kernel_of(host) or usual_kernel(), loaded.settings
    belongings = Belongings.of(what, loaded)
    find_kernel(kernel)  # before anything is built, as the guests' are
    if _OF_LABS not in load_recipe(settings.lab_image).modules.required:
        raise UsageError(
            f"{SETTINGS['lab_image'].flag} {settings.lab_image}: is no recipe of lab hosts, which load {_OF_LABS}",
            hint='lab, lab-trixie, lab-forky, or a recipe of your own with base = "lab"',
        )
    if "/" not in settings.lab_image and not _may_have(settings):
        wanted, recipe = SETTINGS["runtime"].flag, SETTINGS["lab_image"].flag
        raise UsageError(
            f"{wanted} {settings.runtime}: lab hosts of the recipe {settings.lab_image} do not have it",
            hint=f'{recipe} with a recipe of your own that has it, and base = "{settings.lab_image}", or a machine '
            "that has it: --host ssh://[USER@]MACHINE",
        )
    flags = []
    for setting, text, origin in loaded.changed():
        if setting.name == "transport":
            if settings.transport != (Transport.VHOST_VSOCK,):
                raise UsageError(f"{origin}: {text}: a lab host is there for {Transport.VHOST_VSOCK}")
        elif setting.name in belongings.settings:
            there = [parcel.there(path, BASE) for path, parcel in belongings.settings[setting.name]]
            flags.append(f"{setting.flag}={','.join(there)}")
        elif setting.name in _PASSED_ON:
            flags.append(f"{setting.flag}={text}")
        elif text != NONE and setting.name not in _OURS:
            raise UsageError(f"{origin}: {setting.flag} is not for runs in a lab host")
    flags += ["-n", workers] if workers else []
    lab = Lab(host, settings, kernel, settings.results / "host", progress, rings=rings_of(what))
    try:
        lab.bring(belongings.parcels)
    except BaseException:
        lab.close()
        raise
    return lab, list(belongings.named(what, BASE)), flags


def _may_have(settings: Settings) -> bool:
    """Whether a lab host of what is shipped has the runtime under test: our own, or what the user brings."""
    return "/" in settings.runtime or settings.shim is not None or load_profile(settings.runtime).own


def usual_kernel() -> str:
    """Return the kernel of a lab host that asks for none: that of the usual guest, whatever guests are asked for."""
    (kernel,) = load({}, {}, {}, Path("/")).settings.guest_kernel
    return kernel
