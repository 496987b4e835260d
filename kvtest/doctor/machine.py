# SPDX-License-Identifier: Apache-2.0
"""What a machine has to give: memory, room, permissions."""

from __future__ import annotations

from collections.abc import Iterator

from kvtest.doctor import images
from kvtest.doctor.report import GUESTS, Check, Finding, Need, Status
from kvtest.doctor.system import System
from kvtest.host.memory import WORKER_MEMORY
from kvtest.runtime import profile
from kvtest.settings import Settings
from kvtest.vm.template_cache import ROOM

_IMAGE = 1 << 30  # root, kernel and layers while an image is built, and then its templates
_LEAST = 512 << 20  # measured: 420 MB while an image is built, and 100 MB of another that is there by then
_TOGETHER = 128 << 20  # of layers that are there


def _memory(system: System, settings: Settings) -> Iterator[Finding]:
    needed = (settings.memory + WORKER_MEMORY) << 20
    cure = "end what takes memory, or give guests less with --memory"
    yield from _room("free memory", system.room.memory, needed, Status.MISSING, cure)


def _shared_memory(system: System, _settings: Settings) -> Iterator[Finding]:
    cure = "mount -o remount,size=50% /dev/shm"
    use = " for templates, which are on disk otherwise"
    yield from _room("/dev/shm", system.room.shared_memory, ROOM, Status.WARNING, cure, use=use)


def _disk(system: System, settings: Settings) -> Iterator[Finding]:
    cure = "kvtest image prune, kvtest gc, or another directory with --cache"
    free, where = system.room.cache, f" for {settings.cache}"
    wanted = images.unbuilt(settings)
    least = _LEAST if any(wanted.values()) else _TOGETHER
    if wanted and free is not None and free < least:
        use = f" to build {', '.join(wanted)}"
        yield from _room("disk", free, least, Status.MISSING, cure, use=use, where=where)
    else:
        yield from _room("disk", free, _IMAGE, Status.WARNING, cure, where=where)


def _room(
    name: str, free: int | None, needed: int, short: Status, cure: str, *, use: str = "", where: str = ""
) -> Iterator[Finding]:
    if free is None:
        yield Finding(name, "unknown", Status.WARNING, GUESTS)
    elif free < needed:
        yield Finding(name, f"{_size(free)} free{where}, {_size(needed)} needed{use}", short, GUESTS, cure)
    else:
        yield Finding(name, f"{_size(free)} free{where}", Status.OK, GUESTS)


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _root(system: System, _settings: Settings) -> Iterator[Finding]:
    if system.root:
        yield Finding("permissions", "root: all rings", Status.OK, (Need.RUNTIME,))
    else:
        found = "not root: the transport and agent rings run, the runtime ring does not"
        yield Finding("permissions", found, Status.MISSING, (Need.RUNTIME,), "sudo kvtest run")


def _cgroups(system: System, settings: Settings) -> Iterator[Finding]:
    found = profile.load(settings.runtime)
    told = f"{system.cgroups}; {found.name} runs with {', '.join(found.cgroups)}"
    fits = system.cgroups in found.cgroups
    cure = None if fits else "boot with systemd.unified_cgroup_hierarchy=1"
    yield Finding("cgroups", told, Status.OK if fits else Status.MISSING, (Need.RUNTIME,), cure)


def _unseen(system: System, _settings: Settings) -> Iterator[Finding]:
    for what, why in system.unseen.items():
        if not what.startswith("/"):  # the check that wants a file tells of it
            yield Finding(what, f"could not be looked at: {why}", Status.WARNING)


CHECKS = (
    Check("permissions", (Need.RUNTIME,), _root),
    Check("free memory", GUESTS, _memory),
    Check("/dev/shm", GUESTS, _shared_memory),
    Check("disk", GUESTS, _disk),
    Check("cgroups", (Need.RUNTIME,), _cgroups),
    Check("what could not be looked at", (), _unseen),
)
