# SPDX-License-Identifier: Apache-2.0
"""Templates are made once per machine, under a lock, and kept."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from kvtest.cache import Progress, Store, fingerprint, silent
from kvtest.deadline import Deadline
from kvtest.host.memory import available_memory
from kvtest.transport import Transport
from kvtest.vm.accelerator import Accelerator, host_cpu
from kvtest.vm.configuration import ColdBoot, Configuration
from kvtest.vm.freeze import compact, extents, freeze
from kvtest.vm.machine import VM
from kvtest.vm.q35 import command_line
from kvtest.vm.template import KERNEL, MEMORY, STATE, Template

# Part of every key: raised when templates are made or used in another way.
_FORMAT = 1
# As much of a kernel as QEMU looks at to know that it is one; its ROMs do not depend on the rest.
_KERNEL_HEAD = 1 << 16
_FREEZE_SECONDS = 30.0
# Templates that stay however long they have not been used, and how long any stays: a run may be about to use it.
_KEPT = 8
_KEPT_SECONDS = 3600.0
_TMPFS = Path("/dev/shm")
_OWNER = "cache"  # beside the templates: the directory of the cache that they belong to
_ROOM = 4 << 30  # bytes that templates, which take some 110 MB each, must not make scarce


def template_cache(cache: Path) -> TemplateCache:
    """Return the templates that belong to a cache directory: in memory where there is room, else in the cache.

    A file system in memory spares the disk a write of as much as a guest's memory. One that has little room, or a
    directory of that name that is somebody else's, is not used.
    """
    in_memory, in_cache = _places(cache)
    base, user = in_memory.parent, os.geteuid()
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        status, space = base.lstat(), os.statvfs(base)
    except OSError:
        return TemplateCache(in_cache)
    private = stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o077
    room = min(space.f_bavail * space.f_frsize, available_memory())
    if not private or room < _ROOM:
        return TemplateCache(in_cache)
    in_memory.mkdir(exist_ok=True)
    (in_memory / _OWNER).write_text(f"{cache}\n")
    return TemplateCache(in_memory)


def orphans() -> list[Path]:
    """Return the directories in memory that belong to caches which have been removed."""
    base = _places(Path("/"))[0].parent
    found = []
    for owner in sorted(base.glob(f"*/{_OWNER}")):
        with contextlib.suppress(OSError):
            if not Path(owner.read_text().strip()).is_dir():
                found.append(owner.parent)
    return found


def template_caches(cache: Path) -> list[TemplateCache]:
    """Return every place that may hold templates of a cache directory: room comes and goes between runs."""
    return [TemplateCache(place) for place in _places(cache)]


def _places(cache: Path) -> tuple[Path, Path]:
    return _TMPFS / f"kvtest-{os.geteuid()}" / fingerprint(str(cache)), cache / "templates"


class TemplateCache:
    """The templates of a directory.

    Args:
        directory: The directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._store = Store(directory)

    def ensure(self, configuration: Configuration, artifacts: Path, progress: Progress = silent) -> Template:
        """Return the template of a kind of machine, made if need be.

        Args:
            configuration: What clones are made of.
            artifacts: Gets a directory with the console and the monitor's log if one has to be made.
            progress: Told when one is made, or awaited.

        Raises:
            BootError: The guest did not boot.
            TemplateError: It could not be frozen.
            CacheError: The cache cannot be written.
        """
        name = template_name(configuration)
        frozen = _frozen_part(configuration)

        def build(target: Path) -> dict[str, Any]:
            self._forget_old()
            with progress(f"template of {frozen.label}"):
                return _make(frozen, target, artifacts / name, name)

        entry = self._store.get(name, build, progress)
        with contextlib.suppress(OSError):  # a cache that cannot be written has nothing to forget
            os.utime(entry.path)
        return Template.of(entry)

    def _forget_old(self) -> None:
        """Remove what has not been used for long: each change of guest code makes a template, and all take memory."""
        used = {name: (self._store.root / name).stat().st_mtime for name in self._store.names()}
        recent = sorted(used, key=lambda name: used[name])[-_KEPT:]
        oldest = time.time() - _KEPT_SECONDS
        self._store.prune(lambda name: name in recent or used.get(name, oldest) >= oldest)

    def names(self) -> list[str]:
        """Return the names of all templates."""
        return self._store.names()

    def half_made(self, *, remove: bool) -> list[Path]:
        """Return what killed builders left; see :meth:`kvtest.cache.Store.half_made`."""
        return self._store.half_made(remove=remove)

    def prune(self, keep: Callable[[str], bool]) -> list[str]:
        """Remove templates; see :meth:`kvtest.cache.Store.prune`."""
        return self._store.prune(keep)


def template_name(configuration: Configuration) -> str:
    """Return the name of a kind of machine's template: what shapes the machine shapes the name."""
    frozen = _frozen_part(configuration)
    # The command line with everything that differs from run to run replaced.
    words = command_line(
        attrs.evolve(frozen, kernel=Path("/kernel"), initramfs=Path("/initramfs")),
        "template",
        Path("/run"),
        Path("/console"),
        ColdBoot(Path("/memory")),
    ).words
    binary = os.stat(frozen.qemu.path)
    host = host_cpu() if frozen.accelerator is Accelerator.KVM else ""
    key = fingerprint(
        *(_FORMAT, frozen.image, words, frozen.qemu.version, binary.st_size, binary.st_mtime_ns, host),
    )
    return f"template-{key}"


def _frozen_part(configuration: Configuration) -> Configuration:
    """Return what a template is made of: QEMU cannot freeze a vhost-user device, so clones get theirs later."""
    return attrs.evolve(configuration, transports=configuration.transports - {Transport.VHOST_USER_VSOCK})


def _make(configuration: Configuration, target: Path, artifacts: Path, name: str) -> dict[str, Any]:
    memory = target / "booting"
    memory.touch(mode=0o600)
    space = os.statvfs(target)
    if space.f_bavail * space.f_frsize < configuration.memory << 20:  # QEMU would get a SIGBUS for a page too many
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    os.truncate(memory, configuration.memory << 20)
    with VM(configuration, artifacts, name, ColdBoot(memory)) as vm:
        release = str(vm.control.ping()["release"])
        # What every clone does first is done once here, so that its memory is as warm as can be.
        vm.control.personalize(name)
        vm.control.run(["true"])
        vm.control.zero_free_memory()
        vm.control.ping()
        next_stream = vm.control.next_stream
        freeze(vm, target / STATE, Deadline(_FREEZE_SECONDS))
    compact(memory, target / MEMORY)
    memory.unlink()
    with configuration.kernel.open("rb") as stream:
        (target / KERNEL).write_bytes(stream.read(_KERNEL_HEAD))
    return {
        "release": release,
        "qemu": configuration.qemu.version,
        "accelerator": str(configuration.accelerator),
        "memory": configuration.memory,
        "next_stream": next_stream,
        "extents": list(extents(target / MEMORY)),
    }
