# SPDX-License-Identifier: Apache-2.0
"""The kernel, its vhost-vsock device, and what keeps that out."""

from __future__ import annotations

import attrs
import pytest

from kvtest.doctor import Status, kernel, transports
from kvtest.doctor.system import VHOST_VSOCK, Device, KernelConfiguration, KernelModules, System
from tests.unit.doctor.conftest import Look, Machine


def test_a_kernel_from_before_vhost_vsock(machine: Machine, look: Look) -> None:
    found = look(kernel.CHECKS, machine("old-4.4"))
    assert found["host kernel"].status is Status.MISSING
    assert found["host kernel"].cure == "boot a kernel of 4.8 or newer"
    assert found["vhost_vsock"].found == "CONFIG_VHOST_VSOCK is not set, says /boot/config-4.4.0-210-generic"


@pytest.mark.parametrize(("release", "status"), [("4.7.10", "missing"), ("4.8.0", "ok"), ("6.18.44-fc", "ok")])
def test_the_oldest_kernel(look: Look, release: str, status: str) -> None:
    assert look(kernel.CHECKS, System(release))["host kernel"].status == status


def test_a_kernel_without_a_number_is_a_row(look: Look) -> None:
    found = look(kernel.CHECKS, System("mine"))["host kernel"]
    assert found.status is Status.MISSING
    assert found.found == "could not be checked: ValueError: the kernel calls itself 'mine'"


CONFIGURED = KernelConfiguration("/proc/config.gz", {"CONFIG_VHOST_VSOCK": "m"})
BUILT_IN = KernelConfiguration("/proc/config.gz", {"CONFIG_VHOST_VSOCK": "y"})


@pytest.mark.parametrize(
    ("modules", "configuration", "status", "found"),
    [
        (KernelModules(builtin=("vhost_vsock",)), None, "ok", "built into the kernel"),
        (KernelModules(), BUILT_IN, "ok", "built into the kernel"),
        (KernelModules(loaded=("vhost_vsock",)), CONFIGURED, "ok", "loaded"),
        (KernelModules(available=("vhost_vsock",)), CONFIGURED, "missing", "not loaded"),
        (KernelModules(), CONFIGURED, "missing", "CONFIG_VHOST_VSOCK=m says /proc/config.gz, but there is no such"),
        (KernelModules(), None, "missing", "not loaded, no such module, and nothing tells"),
    ],
)
def test_the_module(
    look: Look, modules: KernelModules, configuration: KernelConfiguration | None, status: str, found: str
) -> None:
    row = look(kernel.CHECKS, System("6.1.0", modules=modules, configuration=configuration))["vhost_vsock"]
    assert row.status == status
    assert row.found.startswith(found)
    loadable = bool(modules.available)
    assert row.fix == (("modprobe", "-i", "vhost_vsock") if loadable else None)


def test_modules_that_are_not_installed(machine: Machine, look: Look) -> None:
    row = look(kernel.CHECKS, machine("no-module-5.15"))["vhost_vsock"]
    assert "apt-get install linux-modules-extra-$(uname -r)" in (row.cure or "")


@pytest.mark.parametrize(
    ("device", "status", "found"),
    [
        (Device(), "missing", "not there"),
        (Device(exists=True), "ok", "opens, and reserves a CID"),
        (Device(True, "opens, but reserves no CID: No such device"), "missing", "opens, but reserves no CID: No"),
    ],
)
def test_the_device(look: Look, device: Device, status: str, found: str) -> None:
    row = look(kernel.CHECKS, System("6.1.0", vhost_vsock=device))[VHOST_VSOCK]
    assert row.status == status
    assert row.found.startswith(found)
    assert (row.cure is None) == (status == "ok")


def test_where_the_module_is_the_node_can_be_made(look: Look) -> None:
    system = System("6.1.0", modules=KernelModules(loaded=("vhost_vsock",)))
    assert look(kernel.CHECKS, system)[VHOST_VSOCK].cure == "mknod /dev/vhost-vsock c 10 241"


def test_a_device_that_may_not_be_opened(look: Look) -> None:
    system = System("6.1.0", root=False, vhost_vsock=Device(True, "does not open: Permission denied"))
    assert look(kernel.CHECKS, system)[VHOST_VSOCK].cure == "sudo setfacl -m u:$USER:rw /dev/vhost-vsock"


def test_vmware_keeps_vhost_vsock_out(machine: Machine, look: Look) -> None:
    row = look(transports.CHECKS, machine("vmware-4.15"))["vsock of VMware"]
    assert row.status is Status.MISSING
    assert "vmware-tools is active; before Linux 5.5 it keeps vhost-vsock out" in row.found
    assert (row.cure or "").splitlines() == [
        "systemctl stop vmware-tools",
        "modprobe -r vmw_vsock_vmci_transport",
        "modprobe -i vhost_vsock",
    ]


def test_what_cannot_be_loaded_is_not_tried(machine: Machine, look: Look) -> None:
    row = look(kernel.CHECKS, machine("vmware-4.15"))["vhost_vsock"]
    assert row.fix is None
    assert (row.cure or "").startswith("systemctl stop vmware-tools\n")
    assert look(kernel.CHECKS, machine("vmware-6.1"))["vhost_vsock"].fix is not None


def test_from_5_5_on_vmware_is_not_in_the_way(machine: Machine, look: Look) -> None:
    row = look(transports.CHECKS, machine("vmware-6.1"))["vsock of VMware"]
    assert row.status is Status.OK
    assert "from Linux 5.5 on it and vhost-vsock can be there together" in row.found
    before = attrs.evolve(machine("vmware-6.1"), kernel="5.4.0")
    assert "systemctl stop open-vm-tools" in (look(transports.CHECKS, before)["vsock of VMware"].cure or "")


def test_the_tools_alone_would_load_it_again(machine: Machine, look: Look) -> None:
    unloaded = attrs.evolve(machine("vmware-4.15"), modules=KernelModules(available=("vhost_vsock",)))
    assert look(transports.CHECKS, unloaded)["vsock of VMware"].status is Status.MISSING
    quiet = attrs.evolve(unloaded, services=())
    assert look(transports.CHECKS, quiet)["vsock of VMware"].status is Status.OK


def test_hyper_v(machine: Machine, look: Look) -> None:
    guest = machine("hyper-v-5.4")
    row = look(transports.CHECKS, guest)["vsock of Hyper-V"]
    assert row.status is Status.MISSING
    assert row.cure == "modprobe -r hv_sock\nmodprobe -i vhost_vsock"
    newer = attrs.evolve(guest, kernel="5.5.0")
    assert look(transports.CHECKS, newer)["vsock of Hyper-V"].status is Status.OK


def test_a_transport_that_is_built_in_cannot_be_unloaded(machine: Machine, look: Look) -> None:
    guest = attrs.evolve(machine("hyper-v-5.4"), modules=KernelModules(builtin=("hv_sock",)))
    assert look(transports.CHECKS, guest)["vsock of Hyper-V"].cure == "boot a kernel of 5.5 or newer"


def test_a_machine_of_microsoft_or_one_without_transports_has_no_row(machine: Machine, look: Look) -> None:
    surface = attrs.evolve(machine("hyper-v-5.4"), product="Surface Laptop", modules=KernelModules())
    for system in surface, machine("old-4.4"), machine("no-module-5.15"):
        assert not [name for name in look(transports.CHECKS, system) if name.startswith("vsock of")]


@pytest.mark.parametrize(
    ("name", "status", "cure"),
    [
        ("old-4.4", "warning", "modprobe -r kvm_intel; modprobe kvm_intel nested=1"),
        ("no-module-5.15", "ok", None),
        ("vmware-6.1", "warning", "modprobe kvm_intel"),
        ("hyper-v-5.4", "warning", "enable it for this machine where its hypervisor runs"),
        ("kata-4.2", "warning", "enable it in the firmware"),
    ],
)
def test_nested_virtualization(machine: Machine, look: Look, name: str, status: str, cure: str | None) -> None:
    row = look(transports.CHECKS, machine(name))["nested virtualization"]
    assert (row.status, row.cure) == (status, cure)
