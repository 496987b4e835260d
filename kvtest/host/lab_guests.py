# SPDX-License-Identifier: Apache-2.0
"""The guests of a lab host, in one image that is the beginning of its cache: no guest boots in it.

Where the lab host has a KVM, its guests run under that, several times as fast as in an emulator that is emulated
itself. Their templates are made under it in a lab host, once, and kept here. Elsewhere the templates of this machine
are good for the lab host too, if both have the same QEMU.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from kvtest.accelerator import Accelerator
from kvtest.cache import Progress, Store, fingerprint, silent
from kvtest.conformance import Ring
from kvtest.errors import DeadlineExceededError, HostError, HostLostError, KvtestError
from kvtest.harness import GuestFactory
from kvtest.host import erofs, guest_images
from kvtest.host.heartbeat import Heartbeat
from kvtest.host.lab_machine import CACHE, LabMachine
from kvtest.host.lab_templates import kinds
from kvtest.host.link import SILENCE_SECONDS
from kvtest.settings import SETTINGS, Settings
from kvtest.transport import Transport
from kvtest.vm import template
from kvtest.vm.accelerator import MEMORY
from kvtest.vm.freeze import compact
from kvtest.vm.processor import ON_EMULATED_KVM
from kvtest.vm.template_cache import FORMAT, template_name

IMAGE = "guests.erofs"
_WITHOUT_TEMPLATES = "images.erofs"
_MAKING_SECONDS = 1200.0
_BOOT_SECONDS = 60.0  # ten times that where the lab host is emulated: when that is busy, it takes minutes
_KEPT = 3
_KEPT_SECONDS = 24 * 3600
# What shapes a template.
_SETTINGS = ("guest_kernel", "guest_image", "memory", "cpus", "agent", "agent_start")


@attrs.frozen
class LabGuests:
    """What a lab host runs guests of.

    Args:
        disk: The image with the cache.
        accelerator: What its guests run under.
        memory: What a lab host's cache is to know of that accelerator; empty if nothing.
        images: The names of the images by what they are asked for by (:func:`kvtest.image.brought.key`).
        problem: Why they do not run under its KVM, if that is so.
    """

    disk: Path
    accelerator: Accelerator
    memory: str
    images: Mapping[str, str]
    problem: str | None


def ensure(
    settings: Settings,
    kernel: str | None,
    site: Path,
    artifacts: Path,
    progress: Progress = silent,
    *,
    rings: Collection[Ring],
) -> LabGuests:
    """Return the guests of a lab host, made if need be.

    Args:
        settings: The settings of the run.
        kernel: Name of the lab host's kernel; the settings' first guest kernel if ``None``.
        site: The disk with kvtest.
        artifacts: Gets the consoles and logs of what is started to make them.
        progress: Told of the steps of making them.
        rings: The rings that they are for.

    Raises:
        KvtestError: They could not be made.
    """
    settings = attrs.evolve(settings, transport=(Transport.VHOST_VSOCK,))
    factory = GuestFactory(settings, artifacts, progress=progress)
    rings = guest_images.of_our_images(settings, rings)
    wanted = kinds(factory, rings)
    images = guest_images.images(factory, rings)
    names = {asked: image.name for asked, image in images.items()}
    lab = factory.image(kernel, settings.lab_image)
    below = [path.read_text() for path in sorted(Path("/sys/module").glob("kvm_*/parameters/nested"))]
    made_of = sorted(set(names.values())), [template_name(kind) for kind in wanted]
    key = fingerprint(FORMAT, lab.digest, *made_of, ON_EMULATED_KVM, below)

    def build(target: Path) -> dict[str, Any]:
        store(settings.cache).forget_old(_KEPT, _KEPT_SECONDS)
        tree = target / "tree"
        for directory in {image.kernel.parent for image in images.values()}:
            shutil.copytree(directory, tree / "images" / directory.name)
        templates = tree / "templates"
        templates.mkdir()
        with progress("guests of a lab host"):
            erofs.pack(tree, target / _WITHOUT_TEMPLATES)
            disk = target / _WITHOUT_TEMPLATES
            clone = functools.partial(LabMachine, settings, kernel, site, disk, images=names)
            made = _make(clone, settings, rings, templates, artifacts, progress)
            (target / _WITHOUT_TEMPLATES).unlink()
            if made.problem is not None:
                shutil.rmtree(templates)  # one may have come in part
                templates.mkdir()
                for template_here in map(factory.template, wanted):
                    shutil.copytree(template_here.directory, templates / template_here.name)
            erofs.pack(tree, target / IMAGE)
        shutil.rmtree(tree)
        accelerator = Accelerator.KVM if made.problem is None else Accelerator.TCG
        return {"accelerator": accelerator, **attrs.asdict(made)}

    entry = store(settings.cache).get(f"guests-{key}", build, progress)
    store(settings.cache).used(entry.path.name)
    said = entry.manifest
    return LabGuests(entry.path / IMAGE, Accelerator(said["accelerator"]), said["memory"], names, said["problem"])


def store(cache: Path) -> Store:
    """Return where the guests of lab hosts are kept.

    Args:
        cache: The cache directory.
    """
    return Store(cache / "lab-guests")


@attrs.frozen
class _Made:
    """What came of making templates under a lab host's KVM.

    Args:
        problem: Why there are none, if that is so.
        memory: What a lab host's cache is to know of its accelerator.
        failed: Why another lab host had made none before, if one had begun to.
    """

    problem: str | None
    memory: str = ""
    failed: str | None = None


def _make(
    clone: Callable[[Path], LabMachine],
    settings: Settings,
    rings: Collection[Ring],
    target: Path,
    artifacts: Path,
    progress: Progress,
) -> _Made:
    """Make templates under a lab host's KVM, and in another if that fails: what comes of it stays for a long time."""
    try:
        return _make_once(clone(artifacts / "making"), settings, rings, target)
    except HostError as error:
        failed = error.message
    shutil.rmtree(target)
    target.mkdir()
    try:
        with progress(f"once more, in another lab host, as {failed}"):
            made = _make_once(clone(artifacts / "making-again"), settings, rings, target)
    except HostError as error:  # no accident: no guests run under this KVM
        made = _Made(error.message)
    return attrs.evolve(made, failed=failed)


def _make_once(machine: LabMachine, settings: Settings, rings: Collection[Ring], target: Path) -> _Made:
    with closing(machine), Heartbeat(machine.guest, 2 * SILENCE_SECONDS) as heartbeat:
        if not machine.kvm:
            return _Made("the processor of the lab host has no virtualization")
        try:
            for directory in _made_there(machine, settings, rings):
                (target / directory.name).mkdir()
                for name in machine.guest.run(["ls", str(directory)]).text.split():
                    _bring(machine, directory / name, target / directory.name / name)
            return _Made(None, machine.guest.read_file(f"{CACHE}/{MEMORY}").decode())
        except KvtestError as error:
            how = heartbeat.lost or machine.guest.died
            if how is not None:
                hint = f"see {machine.guest.vm.artifacts}, its console first"
                raise HostLostError(f"the lab host is lost: {how}", hint=hint) from error
            if isinstance(error, DeadlineExceededError):  # this machine has too much else to do
                raise
            raise HostError(error.message) from error


def _made_there(machine: LabMachine, settings: Settings, rings: Collection[Ring]) -> list[Path]:
    """Have templates made in a lab host, and return their directories there."""
    flags = {name: SETTINGS[name].render(getattr(settings, name)) for name in _SETTINGS}
    flags |= {"transport": Transport.VHOST_VSOCK, "accelerator": Accelerator.KVM, "cache": CACHE}
    flags |= {"boot_timeout": str(_BOOT_SECONDS), "request_timeout": str(_BOOT_SECONDS)}
    arguments = ["-m", "kvtest.host.lab_templates", json.dumps(flags), json.dumps(sorted(rings))]
    printed = machine.python(arguments).wait(_MAKING_SECONDS).stdout
    try:
        said: dict[str, Any] = json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError):
        raise HostError(f"no template came of it: {printed[-1000:].decode(errors='replace')}") from None
    if "problem" in said:
        raise HostError(said["problem"])
    return [Path(directory) for directory in said["made"]]


def _bring(machine: LabMachine, source: Path, target: Path) -> None:
    target.write_bytes(machine.guest.read_file(str(source), _MAKING_SECONDS))
    if source.name == template.MEMORY:  # most of it is zeros
        whole = target.with_suffix(".whole")
        target.rename(whole)
        compact(whole, target)
        whole.unlink()
