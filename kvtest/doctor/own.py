# SPDX-License-Identifier: Apache-2.0
"""kvtest's own part of a machine: what builds images, and where it keeps things."""

from __future__ import annotations

import contextlib
import getpass
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kvtest.doctor import images
from kvtest.doctor.report import GUESTS, Check, Finding, Need, Status
from kvtest.doctor.system import System
from kvtest.errors import CacheError, HostError
from kvtest.image import ImageCache
from kvtest.image.bootstrap import require
from kvtest.image.kernel import own_kernel
from kvtest.image.recipe import find_kernel
from kvtest.leftovers import left_over
from kvtest.ownership import RunDirectory
from kvtest.runtime.installation import problems
from kvtest.runtime.profile import load
from kvtest.settings import Settings
from kvtest.vm.template_cache import template_cache


def check_mmdebstrap(settings: Settings) -> str:
    """Return where mmdebstrap is, if it could build an image."""
    tool = require("mmdebstrap", "mmdebstrap")
    if os.geteuid() != 0 and ImageCache(settings.cache).find(settings.kernel, settings.guest_image) is None:
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


def try_to_write(directory: Path) -> None:
    """Write a file to a directory, made if it is not there, and leave everything as it was.

    Raises:
        OSError: It cannot be written.
    """
    with contextlib.ExitStack() as made:
        for absent in reversed([path for path in (directory, *directory.parents) if not path.exists()]):
            with contextlib.suppress(FileExistsError):  # somebody else has made it in the meantime
                absent.mkdir()
                made.callback(_remove_if_empty, absent)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".kvtest-") as file:
            file.write(b"kvtest")


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):  # somebody else has begun to use it
        directory.rmdir()


def _tools(_system: System, settings: Settings) -> Iterator[Finding]:
    yield Finding("mmdebstrap", check_mmdebstrap(settings), Status.OK, GUESTS)


def _kmod(_system: System, _settings: Settings) -> Iterator[Finding]:
    yield Finding("kmod", require("modprobe", "kmod"), Status.OK, GUESTS)


def _cache(_system: System, settings: Settings) -> Iterator[Finding]:
    if images.unbuilt(settings):
        try:
            try_to_write(settings.cache)
        except OSError as error:
            told = f"cannot write to {settings.cache}: {error.strerror or error}"
            raise CacheError(told, hint="choose another with --cache") from error
    yield Finding("cache", str(settings.cache), Status.OK, GUESTS)


def _run_directory(_system: System, settings: Settings) -> Iterator[Finding]:
    with RunDirectory(settings.run_directory) as directory:
        yield Finding("run directory", str(directory.path.parent), Status.OK, GUESTS)


def _image(_system: System, settings: Settings) -> Iterator[Finding]:
    for name in settings.guest_kernel:
        kernel = find_kernel(name)
        if kernel.path is not None:
            image_file, modules = own_kernel(kernel.path)
            yield Finding("guest kernel", f"{image_file}, modules of {modules.name}", Status.OK, GUESTS)
        yield _image_of(name, settings)


def _image_of(kernel: str, settings: Settings) -> Finding:
    image = ImageCache(settings.cache).find(kernel, settings.guest_image)
    if image is None:
        return Finding(
            "guest image", f"{kernel}: not built yet; a run builds it", Status.OK, GUESTS, "kvtest image build"
        )
    return Finding("guest image", f"{image.release}, {image.size / 1e6:.0f} MB", Status.OK, GUESTS)


def _templates(_system: System, settings: Settings) -> Iterator[Finding]:
    cache = template_cache(settings.cache, settings.memory)
    where = "in memory" if not cache.directory.is_relative_to(settings.cache) else "on disk: there is little memory"
    yield Finding("templates", f"{len(cache.names())} in {cache.directory} ({where})", Status.OK, GUESTS)


def _leftovers(_system: System, settings: Settings) -> Iterator[Finding]:
    paths = list(left_over(settings))
    if paths:
        shown = ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
        yield Finding("leftovers", f"of earlier runs: {shown}", Status.WARNING, cure="kvtest gc")
    else:
        yield Finding("leftovers", "none", Status.OK)


def _runtime(_system: System, settings: Settings) -> Iterator[Finding]:
    profile = load(settings.runtime)
    name, needed_by = f"runtime {profile.name}", (Need.RUNTIME,)
    wrong = [problem for problem in problems(profile, settings) if "not root" not in problem.message]
    for problem in wrong:
        yield Finding(name, problem.message, Status.MISSING, needed_by, problem.hint)
    if not wrong:
        yield Finding(name, profile.description, Status.OK, needed_by)


CHECKS = (
    Check("mmdebstrap", GUESTS, _tools),
    Check("kmod", GUESTS, _kmod),
    Check("cache", GUESTS, _cache),
    Check("run directory", GUESTS, _run_directory),
    Check("guest image", GUESTS, _image),
    Check("templates", GUESTS, _templates),
    Check("leftovers", (), _leftovers),
    Check("runtime", (Need.RUNTIME,), _runtime),
)
