# SPDX-License-Identifier: Apache-2.0
"""Templates are made once per machine, under a lock, and kept."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from kvtest.accelerator import Accelerator
from kvtest.cache import Entry, Progress, Store, digest, fingerprint, silent
from kvtest.deadline import Deadline
from kvtest.errors import CacheError
from kvtest.host.memory import available_memory
from kvtest.transport import VSOCKS
from kvtest.vm.configuration import ColdBoot, Configuration
from kvtest.vm.freeze import compact, extents, freeze
from kvtest.vm.machine import VM
from kvtest.vm.processor import host_cpu
from kvtest.vm.q35 import command_line
from kvtest.vm.template import KERNEL, MEMORY, STATE, Template

# Part of every key: raised when templates are made or used in another way.
FORMAT = 2
"""Number of the format of templates; changes with what is in one, and with what a guest is told to be frozen."""
# As much of a kernel as QEMU looks at to know that it is one; its ROMs do not depend on the rest.
_KERNEL_HEAD = 1 << 16
_FREEZE_SECONDS = 30.0
# Templates that stay however long they have not been used, and how long any stays: a run may be about to use it.
_KEPT = 8
_KEPT_SECONDS = 3600.0
_TMPFS = Path("/dev/shm")
_OWNER = "cache"  # beside the templates: the directory of the cache that they belong to
ROOM = 4 << 30
"""Bytes of memory that templates, which take some 110 MB each, must not make scarce."""
CARRIED = "carried"
"""The directory of a cache with templates that were made on another machine, by :func:`portable_name`."""


def template_cache(cache: Path, memory: int = 0) -> TemplateCache:
    """Return the templates that belong to a cache directory: in memory where there is room, else in the cache.

    A file system in memory spares the disk a write of as much as a guest's memory. One that has little room, or a
    directory of that name that is somebody else's, is not used.

    Args:
        cache: The cache directory.
        memory: MiB of the guest that a template may have to be made of: so much has to fit in while it is made.
    """
    in_memory, in_cache = _places(cache)
    carried = cache / CARRIED
    if _has_room(in_memory.parent, memory << 20):
        return TemplateCache(in_memory, cache, carried)
    return TemplateCache(in_cache, carried=carried)


def _has_room(base: Path, wanted: int) -> bool:
    """Whether templates can be kept in the directory of a user in memory, with some bytes more."""
    try:
        space = os.statvfs(_TMPFS)
        status = base.lstat() if os.path.lexists(base) else None
    except OSError:
        return False
    usable = os.access(_TMPFS, os.W_OK) if status is None else _is_private(status)
    return usable and min(space.f_bavail * space.f_frsize, available_memory()) >= ROOM + wanted


def _is_private(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


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
        directory: The directory; made when first needed.
        owner: The cache directory that it belongs to, where it is not in that one.
        carried: The directory of templates that were made on another machine.
    """

    def __init__(self, directory: Path, owner: Path | None = None, carried: Path | None = None) -> None:
        self.directory = directory
        self._owner = owner
        self._store = Store(directory)
        self._carried = carried

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
            # Each change of guest code makes a template, and all of them take memory.
            self._store.forget_old(_KEPT, _KEPT_SECONDS)
            brought = self._brought(frozen)
            if brought is not None:
                with progress(f"template of {frozen.label}, as it was brought here"):
                    return _copy(brought, target)
            with progress(f"template of {frozen.label}"):
                return _make(frozen, target, artifacts / name, name)

        self._make_directory()
        entry = self._store.get(name, build, progress)
        self._store.used(name)
        return Template.of(entry)

    def _brought(self, frozen: Configuration) -> Entry | None:
        """Return a template of this kind that another machine with the same QEMU has made, if one was brought."""
        if self._carried is None or not self._carried.is_dir():
            return None
        return Store(self._carried).find(portable_name(frozen))

    def _make_directory(self) -> None:
        if self._owner is not None:
            with contextlib.suppress(OSError):  # the store says what is wrong with it
                self.directory.parent.mkdir(mode=0o700, exist_ok=True)
                self.directory.mkdir(exist_ok=True)
                (self.directory / _OWNER).write_text(f"{self._owner}\n")

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
    binary = os.stat(frozen.qemu.path)
    return f"template-{_key(frozen, _words(frozen), binary.st_size, binary.st_mtime_ns)}"


def portable_name(configuration: Configuration) -> str:
    """Return the name of a kind of machine's template that is the same on every machine on which it can be used.

    There QEMU is the same to the last byte, wherever and since whenever it is there, and with KVM the processor too.
    """
    frozen = _frozen_part(configuration)
    return f"template-{_key(frozen, _words(frozen)[1:], digest(Path(frozen.qemu.path)))}"


def _words(frozen: Configuration) -> tuple[str, ...]:
    """Return the command line with everything that differs from run to run replaced."""
    return tuple(
        command_line(
            attrs.evolve(frozen, kernel=Path("/kernel"), initramfs=Path("/initramfs")),
            "template",
            Path("/run"),
            Path("/console"),
            ColdBoot(Path("/memory")),
        ).words
    )


def _key(frozen: Configuration, words: tuple[str, ...], *binary: object) -> str:
    host = host_cpu() if frozen.accelerator is Accelerator.KVM else ""
    return fingerprint(FORMAT, frozen.image, words, frozen.qemu.version, *binary, host)


def _frozen_part(configuration: Configuration) -> Configuration:
    """Return what a template is made of: QEMU cannot freeze a vhost-user device, so clones get any vsock later."""
    return attrs.evolve(configuration, transports=configuration.transports - VSOCKS)


def _copy(source: Entry, target: Path) -> dict[str, Any]:
    """Make a template of another; return what its manifest is to say."""
    for name in (STATE, KERNEL):
        shutil.copyfile(source.path / name, target / name)
    compact(source.path / MEMORY, target / MEMORY)
    said = {name: value for name, value in source.manifest.items() if name != "files"}
    return {**said, "extents": list(extents(target / MEMORY))}


def _make(configuration: Configuration, target: Path, artifacts: Path, name: str) -> dict[str, Any]:
    memory = target / "booting"
    memory.touch(mode=0o600)
    space = os.statvfs(target)
    room = space.f_bavail * space.f_frsize
    if room < configuration.memory << 20:  # QEMU would get a SIGBUS for a page too many
        raise CacheError(
            f"a guest with {configuration.memory} MiB needs a file of that size for its memory, "
            f"and {target.parent} has room for {room >> 20} MiB",
            hint="give it less memory (--memory, or memory= in the test's marker), or free space: kvtest image prune",
        )
    os.truncate(memory, configuration.memory << 20)
    with VM(configuration, artifacts, name, ColdBoot(memory)) as vm:
        # What every clone does first is done once here, so that its memory is as warm as can be.
        vm.control.run(["true"])
        vm.control.zero_free_memory(configuration.boot_timeout)  # of a large guest that takes as long as its boot
        vm.control.settle()
        vm.control.expect_personalize()
        vm.control.personalize(name)
        vm.control.ping()
        vm.control.expect_personalize()
        next_stream = vm.control.next_stream
        freeze(vm, target / STATE, Deadline(_FREEZE_SECONDS))
    compact(memory, target / MEMORY)
    memory.unlink()
    with configuration.kernel.open("rb") as stream:
        (target / KERNEL).write_bytes(stream.read(_KERNEL_HEAD))
    return {
        "release": vm.release,
        "qemu": configuration.qemu.version,
        "accelerator": str(configuration.accelerator),
        "memory": configuration.memory,
        "next_stream": next_stream,
        "extents": list(extents(target / MEMORY)),
    }
