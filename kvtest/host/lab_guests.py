# SPDX-License-Identifier: Apache-2.0
"""The guests of a lab host, in one image that is the beginning of its cache: no guest boots in it.

Where the lab host has a KVM, its guests run under that, several times as fast as in an emulator that is emulated
itself. Their templates are made under it in a lab host, once, and kept here. Elsewhere the templates of this machine
are good for the lab host too, if both have the same QEMU.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from kvtest.accelerator import Accelerator
from kvtest.cache import Progress, Store, fingerprint, silent
from kvtest.conformance import Ring
from kvtest.control import Process
from kvtest.deadline import Deadline
from kvtest.errors import DeadlineExceededError, HostError, KvtestError
from kvtest.harness import GuestFactory
from kvtest.host import erofs
from kvtest.host.lab_machine import CACHE, LabMachine
from kvtest.host.lab_templates import kinds
from kvtest.settings import SETTINGS, Settings
from kvtest.transport import Transport
from kvtest.vm import template
from kvtest.vm.accelerator import MEMORY
from kvtest.vm.freeze import compact
from kvtest.vm.template_cache import FORMAT, template_name

IMAGE = "guests.erofs"
_WITHOUT_TEMPLATES = "images.erofs"
_MAKING_SECONDS = 1200.0
_BOOT_SECONDS = 150.0  # as slow as the lab host is: on a busy machine it takes minutes, and the other way hours
_KEPT = 3
_KEPT_SECONDS = 24 * 3600
# What shapes a template.
_SETTINGS = ("guest_kernel", "guest_image", "memory", "cpus")


@attrs.frozen
class LabGuests:
    """What a lab host runs guests of.

    Args:
        disk: The image with the cache.
        accelerator: What its guests run under.
        memory: What a lab host's cache is to know of that accelerator; empty if nothing.
    """

    disk: Path
    accelerator: Accelerator
    memory: str


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
    wanted = kinds(factory, rings)
    lab = factory.image(kernel, settings.lab_image)
    key = fingerprint(FORMAT, lab.digest, [(kind.kernel.parent.name, template_name(kind)) for kind in wanted])

    def build(target: Path) -> dict[str, Any]:
        store(settings.cache).forget_old(_KEPT, _KEPT_SECONDS)
        tree = target / "tree"
        # An accelerator is tried with the usual guest's kernel, whether there are such guests or not.
        for image in {factory.image().kernel.parent, *(kind.kernel.parent for kind in wanted)}:
            shutil.copytree(image, tree / "images" / image.name)
        templates = tree / "templates"
        templates.mkdir()
        with progress("guests of a lab host"):
            erofs.pack(tree, target / _WITHOUT_TEMPLATES)
            with closing(
                LabMachine(settings, kernel, site, target / _WITHOUT_TEMPLATES, artifacts / "making")
            ) as machine:
                problem = _make(machine, settings, rings, templates)
                memory = "" if problem is not None else machine.guest.read_file(f"{CACHE}/{MEMORY}").decode()
            (target / _WITHOUT_TEMPLATES).unlink()
            if problem is not None:
                shutil.rmtree(templates)  # one may have come in part
                templates.mkdir()
                for made in map(factory.template, wanted):
                    shutil.copytree(made.directory, templates / made.name)
            erofs.pack(tree, target / IMAGE)
        shutil.rmtree(tree)
        accelerator = Accelerator.KVM if problem is None else Accelerator.TCG
        return {"accelerator": accelerator, "memory": memory, "problem": problem}

    entry = store(settings.cache).get(f"guests-{key}", build, progress)
    store(settings.cache).used(entry.path.name)
    return LabGuests(entry.path / IMAGE, Accelerator(entry.manifest["accelerator"]), entry.manifest["memory"])


def store(cache: Path) -> Store:
    """Return where the guests of lab hosts are kept.

    Args:
        cache: The cache directory.
    """
    return Store(cache / "lab-guests")


def _make(machine: LabMachine, settings: Settings, rings: Collection[Ring], target: Path) -> str | None:
    """Make templates under the lab host's KVM; return why there are none, if that is so."""
    if not machine.kvm:
        return "the processor of the lab host has no virtualization"
    flags = {name: SETTINGS[name].render(getattr(settings, name)) for name in _SETTINGS}
    flags |= {"transport": Transport.VHOST_VSOCK, "accelerator": Accelerator.KVM, "cache": CACHE}
    flags |= {"boot_timeout": str(_BOOT_SECONDS), "request_timeout": str(_BOOT_SECONDS)}
    arguments = ["-m", "kvtest.host.lab_templates", json.dumps(flags), json.dumps(sorted(rings))]
    try:
        said = _last_line(machine.python(arguments))
        if "problem" in said:
            return str(said["problem"])
        for directory in map(Path, said["made"]):
            (target / directory.name).mkdir()
            for name in machine.guest.run(["ls", str(directory)]).text.split():
                _bring(machine, directory / name, target / directory.name / name)
    except DeadlineExceededError:  # says nothing of the KVM: this machine has too much else to do
        raise
    except KvtestError as error:
        return error.message
    return None


def _last_line(process: Process) -> dict[str, Any]:
    printed = b"".join(data for _, data in process.output(Deadline(_MAKING_SECONDS)))
    try:
        said: dict[str, Any] = json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError):
        raise HostError(f"no template came of it: {printed[-1000:].decode(errors='replace')}") from None
    return said


def _bring(machine: LabMachine, source: Path, target: Path) -> None:
    target.write_bytes(machine.guest.read_file(str(source), _MAKING_SECONDS))
    if source.name == template.MEMORY:  # most of it is zeros
        whole = target.with_suffix(".whole")
        target.rename(whole)
        compact(whole, target)
        whole.unlink()
