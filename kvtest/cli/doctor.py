# SPDX-License-Identifier: Apache-2.0
"""``kvtest doctor``: what works on this machine, what does not, and what mends it."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import typer

from kvtest.accelerator import AcceleratorChoice
from kvtest.cli.console import output
from kvtest.cli.options import Given, settings_of, with_settings
from kvtest.errors import CacheError, HostError, KvtestError
from kvtest.image import ImageCache
from kvtest.image.bootstrap import require
from kvtest.ownership import RunDirectory
from kvtest.settings import Settings
from kvtest.vm import QEMU
from kvtest.vm.accelerator import decide
from kvtest.vm.template_cache import template_cache


@with_settings()
def doctor(given: Given) -> None:
    """Check this machine; exit status 2 if the suites cannot run here."""
    settings = settings_of(given)
    checks: list[tuple[str, Callable[[Settings], str]]] = [
        ("QEMU", lambda settings: f"{(qemu := QEMU.find(settings.qemu)).version} ({qemu.path})"),
        ("mmdebstrap", check_mmdebstrap),
        ("kmod", lambda _: require("modprobe", "kmod")),
        ("cache", _cache),
        ("run directory", _run_directory),
        ("guest image", _image),
        ("templates", _templates),
        ("accelerator", _accelerator),
    ]
    output.print(f"host kernel: {platform.release()}", highlight=False)
    unfit = False
    for name, check in checks:
        try:
            output.print(f"ok       {name}: {check(settings)}", highlight=False, markup=False)
        except KvtestError as error:
            unfit = True
            output.print(f"missing  {name}: {error}", highlight=False, markup=False)
    if unfit:
        raise typer.Exit(2)


def check_mmdebstrap(settings: Settings) -> str:
    """Return where mmdebstrap is, if it could build an image."""
    tool = require("mmdebstrap", "mmdebstrap")
    if os.geteuid() != 0 and ImageCache(settings.cache).find(settings.guest_kernel, settings.guest_image) is None:
        for program in ("newuidmap", "newgidmap"):  # mmdebstrap(1), mode unshare
            require(program, "uidmap")
        user = getpass.getuser()
        for file in (Path("/etc/subuid"), Path("/etc/subgid")):
            lines = file.read_text().splitlines() if file.exists() else []
            if not any(line.startswith((f"{user}:", f"{os.getuid()}:")) for line in lines):
                raise HostError(
                    f"{file} gives {user} no range of IDs, which mmdebstrap needs without root",
                    hint=f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
                )
    return tool


def _cache(settings: Settings) -> str:
    parent = settings.cache
    while not parent.exists():
        parent = parent.parent
    image = ImageCache(settings.cache).find(settings.guest_kernel, settings.guest_image)
    if image is None and (not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK)):
        raise CacheError(f"cannot write to {parent}", hint="choose another with --cache")
    return f"{settings.cache}, {shutil.disk_usage(parent).free / 1e9:.0f} GB free"


def _run_directory(settings: Settings) -> str:
    with RunDirectory(settings.run_directory) as directory:
        return str(directory.path.parent)


def _image(settings: Settings) -> str:
    image = ImageCache(settings.cache).find(settings.guest_kernel, settings.guest_image)
    return f"{image.release}, {image.size / 1e6:.0f} MB" if image is not None else "not built yet: kvtest image build"


def _templates(settings: Settings) -> str:
    cache = template_cache(settings.cache)
    where = "in memory" if not cache.directory.is_relative_to(settings.cache) else "on disk: there is little memory"
    return f"{len(cache.names())} in {cache.directory} ({where})"


def _accelerator(settings: Settings) -> str:
    image = ImageCache(settings.cache).find(settings.guest_kernel, settings.guest_image)
    if image is None and settings.accelerator is not AcceleratorChoice.TCG:
        return "known once there is a guest image to try it with"
    kernel = image.kernel if image is not None else Path()
    decision = decide(settings.accelerator, QEMU.find(settings.qemu), kernel, settings.cache)
    return f"{decision.accelerator} ({decision.reason})"
