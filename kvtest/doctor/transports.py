# SPDX-License-Identifier: Apache-2.0
"""Other vsock transports of the host: before Linux 5.5, one that is registered keeps vhost-vsock out.

Up to 5.4, ``vsock_core_init`` took one transport and refused a second with ``EBUSY``; from 5.5 on a machine can be a
guest and have guests (net/vmw_vsock/af_vsock.c). The commands for VMware are those of Kata's document on VSOCKs.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from kvtest.doctor.report import HOST_VSOCK, Check, Finding, Status
from kvtest.doctor.system import System
from kvtest.settings import Settings

TOGETHER = (5, 5)
VMWARE_TOOLS = ("vmware-tools", "open-vm-tools", "vmtoolsd")
"""What the service is called by VMware, by Debian and by Fedora; the first is in the document."""
_NAME = "other vsock transports"


@frozen
class Transport:
    """A transport of a machine that is a guest.

    Args:
        module: The kernel's module.
        hypervisor: Whose guest.
        vendor: How DMI's ``sys_vendor`` of such a guest begins; empty if several.
        product: How DMI's ``product_name`` of such a guest begins: not every machine of Microsoft's is a guest.
        services: Units of systemd that use it, and load it again.
    """

    module: str
    hypervisor: str
    vendor: str
    product: str = ""
    services: tuple[str, ...] = ()


KNOWN = (
    Transport("vmw_vsock_vmci_transport", "VMware", "VMware", "VMware", VMWARE_TOOLS),
    Transport("hv_sock", "Hyper-V", "Microsoft", "Virtual Machine"),
    Transport("vmw_vsock_virtio_transport", "KVM", ""),
)


def rivals(system: System) -> Iterator[Transport]:
    """Yield the transports that keep vhost-vsock out, or will as soon as their service loads them."""
    if system.kernel_version >= TOGETHER:
        return
    for transport in KNOWN:
        if system.modules.active(transport.module) or _users(system, transport):
            yield transport


def _users(system: System, transport: Transport) -> list[str]:
    return [service for service in transport.services if service in system.services] if _is(system, transport) else []


def _is(system: System, transport: Transport) -> bool:
    made = system.vendor.startswith(transport.vendor) and system.product.startswith(transport.product)
    return bool(transport.vendor) and made and "hypervisor" in system.cpu_flags


def _look(system: System, _settings: Settings) -> Iterator[Finding]:
    in_the_way = tuple(rivals(system))
    for transport in KNOWN:
        active, users = system.modules.active(transport.module), _users(system, transport)
        if not active and not _is(system, transport):
            continue
        name = f"vsock of {transport.hypervisor}"
        state = "built in" if transport.module in system.modules.builtin else "loaded" if active else "not loaded"
        seen = [f"{transport.module} is {state}"]
        seen = [f"a guest of {transport.hypervisor} ({system.product})", *seen] if _is(system, transport) else seen
        seen += [f"{service} is active" for service in users]
        if transport not in in_the_way:
            together = "; from Linux 5.5 on it and vhost-vsock can be there together" if active else ""
            yield Finding(name, f"{', '.join(seen)}{together}", Status.OK, HOST_VSOCK)
        else:
            found = f"{', '.join(seen)}; before Linux 5.5 it keeps vhost-vsock out"
            yield Finding(name, found, Status.MISSING, HOST_VSOCK, commands(system, transport))


def commands(system: System, transport: Transport) -> str:
    """Return what puts a transport out of the way and loads vhost-vsock, a line for each command."""
    if transport.module in system.modules.builtin:
        return "boot a kernel of 5.5 or newer"
    stop = [f"systemctl stop {service}" for service in _users(system, transport)]
    return "\n".join([*stop, f"modprobe -r {transport.module}", "modprobe -i vhost_vsock"])


def _nested(system: System, _settings: Settings) -> Iterator[Finding]:
    name = "nested virtualization"
    parameters = {key: value for key, value in system.parameters.items() if key.endswith(".nested")}
    for key, value in parameters.items():
        module = key.removesuffix(".nested")
        if value in ("Y", "1"):
            yield Finding(name, f"{module} has it", Status.OK)
        else:
            cure = f"modprobe -r {module}; modprobe {module} nested=1"
            found = f"{module} does not give it: guests of guests run under TCG"
            yield Finding(name, found, Status.WARNING, cure=cure)
    if parameters:
        return
    virtual = {"vmx", "svm"} & set(system.cpu_flags)
    if not virtual and "hypervisor" in system.cpu_flags:
        found = "this machine is a guest, and its processor shows neither vmx nor svm: guests run under TCG"
        yield Finding(name, found, Status.WARNING, cure="enable it for this machine where its hypervisor runs")
    elif not virtual:
        yield Finding(name, "the processor shows neither vmx nor svm", Status.WARNING, cure="enable it in the firmware")
    else:
        cure = "modprobe kvm_intel" if "vmx" in virtual else "modprobe kvm_amd"
        yield Finding(name, "no module of KVM is loaded", Status.WARNING, cure=cure)


CHECKS = (Check(_NAME, HOST_VSOCK, _look), Check("nested virtualization", (), _nested))
