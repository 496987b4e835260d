# SPDX-License-Identifier: Apache-2.0
"""What a machine has to give, QEMU's devices, containerd: found and not found."""

from __future__ import annotations

import attrs
import pytest

from kvtest.doctor import Need, Status, containerd, images, machine, own, qemu
from kvtest.doctor.containerd import Handler
from kvtest.doctor.kata import kata_handlers
from kvtest.doctor.report import GUESTS
from kvtest.doctor.system import Emulator, Program, Room, System
from kvtest.ownership.run_directory import default_base
from kvtest.settings import Settings
from tests.unit.doctor.conftest import Look

SYSTEM = System("6.1")
DEVICES = Emulator(tuple(qemu.DEVICES))


@pytest.mark.parametrize("device", qemu.DEVICES)
def test_a_device_that_qemu_lacks(look: Look, device: str) -> None:
    rows = look(qemu.CHECKS[1:2], attrs.evolve(SYSTEM, qemu=DEVICES))
    assert {row.status for row in rows.values()} == {Status.OK}
    without = Emulator(tuple(name for name in qemu.DEVICES if name != device))
    rows = look(qemu.CHECKS[1:2], attrs.evolve(SYSTEM, qemu=without))
    assert [name for name, row in rows.items() if row.status is Status.MISSING] == [device]
    assert rows[device].needed_by == ((Need.VHOST_VSOCK,) if device == "vhost-vsock-pci" else GUESTS)


def test_a_qemu_that_does_not_tell(look: Look) -> None:
    rows = look(qemu.CHECKS[1:2], attrs.evolve(SYSTEM, qemu=Emulator(problem="exit status 1")))
    assert rows["QEMU devices"].status is Status.MISSING
    assert rows["QEMU devices"].found == "QEMU does not tell: exit status 1"


def test_room(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "unbuilt", lambda _settings: {})
    names = ("free memory", "/dev/shm", "disk")
    plenty = look(machine.CHECKS, attrs.evolve(SYSTEM, room=Room(1 << 40, 1 << 40, 1 << 40)))
    assert [plenty[name].status for name in names] == [Status.OK] * 3
    little = look(machine.CHECKS, attrs.evolve(SYSTEM, room=Room(1 << 20, 1 << 20, 1 << 20)))
    assert [little[name].status for name in names] == [Status.MISSING, Status.WARNING, Status.WARNING]
    assert little["free memory"].found.startswith("1 MB free, ")
    assert all(little[name].cure for name in names)
    unknown = look(machine.CHECKS, SYSTEM)
    assert [unknown[name].found for name in names] == ["unknown"] * 3


@pytest.mark.parametrize(
    ("unbuilt", "megabytes", "status", "needed"),
    [
        ({"image guest with kernel 6.12": ("bookworm",)}, 20, "missing", "537 MB"),
        ({"image guest with kernel 6.12": ("bookworm",)}, 800, "warning", "1.1 GB"),
        ({"image guest with kernel 6.12": ()}, 20, "missing", "134 MB"),  # of layers that are there
        ({"image guest with kernel 6.12": ()}, 300, "warning", "1.1 GB"),
        ({}, 20, "warning", "1.1 GB"),
    ],
)
def test_room_for_images_that_are_not_built_yet(
    look: Look,
    monkeypatch: pytest.MonkeyPatch,
    unbuilt: dict[str, tuple[str, ...]],
    megabytes: int,
    status: str,
    needed: str,
) -> None:
    monkeypatch.setattr(images, "unbuilt", lambda _settings: unbuilt)
    row = look(machine.CHECKS, attrs.evolve(SYSTEM, room=Room(cache=megabytes * 1_000_000)))["disk"]
    assert row.status == status
    assert f", {needed} needed" in row.found
    assert ("image guest with kernel 6.12" in row.found) == (status == "missing")
    assert row.needed_by == GUESTS


def test_rings_that_need_root(look: Look) -> None:
    assert look(machine.CHECKS, SYSTEM)["permissions"].status is Status.OK
    row = look(machine.CHECKS, attrs.evolve(SYSTEM, root=False))["permissions"]
    assert (row.status, row.needed_by, row.cure) == (Status.MISSING, (Need.RUNTIME,), "sudo kvtest run")


def test_cgroups_that_the_runtime_runs_with(look: Look) -> None:
    assert look(machine.CHECKS, SYSTEM)["cgroups"].status is Status.OK
    row = look(machine.CHECKS, attrs.evolve(SYSTEM, cgroups="unknown"))["cgroups"]
    assert row.status is Status.MISSING


def test_what_could_not_be_looked_at(look: Look) -> None:
    rows = look(machine.CHECKS, attrs.evolve(SYSTEM, unseen={"the processor": "OSError: x", "/etc/x": "denied"}))
    assert rows["the processor"].found == "could not be looked at: OSError: x"
    assert "/etc/x" not in rows


DUMP = """
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
runtime_type = "io.containerd.kata.v2"
runtime_path = "/opt/kata/bin/containerd-shim-kata-v2"
options = { ConfigPath = "/kata.toml" }
"""


def test_containerd_and_its_runtimes(look: Look) -> None:
    said = "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3"
    programs = (Program("containerd", "/usr/bin/containerd", said=said),)
    rows = look(containerd.CHECKS, attrs.evolve(SYSTEM, programs=programs, containerd_configuration=DUMP))
    assert rows["containerd"].found == "1.6.20 (/usr/bin/containerd)"
    assert rows["containerd's runtimes"].found == "kata (io.containerd.kata.v2), runc (io.containerd.runc.v2)"
    kata = Handler("kata", "io.containerd.kata.v2", "/opt/kata/bin/containerd-shim-kata-v2", "/kata.toml")
    assert containerd.handlers(DUMP) == (kata, Handler("runc", "io.containerd.runc.v2"))
    assert containerd.handlers(DUMP.replace("grpc.v1.cri", "cri.v1.runtime")) == containerd.handlers(DUMP)


@pytest.mark.parametrize("text", ["version = ", "plugins = 3", "[plugins]\ncri = 1", ""])
def test_a_configuration_of_containerd_that_is_none(look: Look, text: str) -> None:
    rows = look(containerd.CHECKS, attrs.evolve(SYSTEM, containerd_configuration=text))
    assert not any("could not be checked" in row.found for row in rows.values())
    assert kata_handlers(text) == ()
    assert (rows["containerd's runtimes"].status is Status.WARNING) == (text == "version = ")


@pytest.mark.parametrize(
    ("name", "package"), [("containerd", "containerd"), ("runc", "runc"), ("mkfs.erofs", "erofs-utils")]
)
def test_programs_of_the_runtime_ring(look: Look, name: str, package: str) -> None:
    assert look(containerd.CHECKS, SYSTEM)[name].cure == f"apt-get install --no-install-recommends {package}"
    hanging = attrs.evolve(SYSTEM, programs=(Program(name, "/x", problem="did not end"),))
    assert look(containerd.CHECKS, hanging)[name].found == "/x: did not end"
    there = attrs.evolve(SYSTEM, programs=(Program(name, "/x"),))
    assert (look(containerd.CHECKS, there)[name].status, look(containerd.CHECKS, there)[name].found) == ("ok", "/x")


def test_leftovers_are_those_of_gc(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path_factory.mktemp("base")
    left = base / "kvtest-0123abcd"
    left.mkdir(mode=0o700)
    monkeypatch.setattr("kvtest.leftovers.default_base", lambda: base)
    assert default_base() != base
    leftovers = [check for check in own.CHECKS if check.name == "leftovers"]
    (row,) = (finding for check in leftovers for finding in check.findings(SYSTEM, settings))
    assert (row.status, row.cure) == (Status.WARNING, "kvtest gc")
    assert str(left) in row.found
    assert left.is_dir()
