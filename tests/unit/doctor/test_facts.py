# SPDX-License-Identifier: Apache-2.0
"""What the files of a machine say of it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from kvtest.doctor import facts
from kvtest.doctor.system import KernelConfiguration, KernelModules

RELEASE = "6.1.0-21-amd64"
CONFIGURATION = "CONFIG_VSOCKETS=m\nCONFIG_VHOST_VSOCK=y\n# CONFIG_VSOCKETS_DIAG is not set\nCONFIG_SMP=y\n"
OPTIONS = {"CONFIG_VSOCKETS": "m", "CONFIG_VHOST_VSOCK": "y"}


def write(root: Path, name: str, data: str | bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("name", ["proc/config.gz", f"boot/config-{RELEASE}", f"lib/modules/{RELEASE}/config"])
def test_where_the_configuration_is(tmp_path: Path, name: str) -> None:
    write(tmp_path, "boot/config-5.10.0", "CONFIG_VSOCKETS=n\n")  # another kernel's
    assert facts.configuration(tmp_path, RELEASE) is None
    text = gzip.compress(CONFIGURATION.encode()) if name.endswith(".gz") else CONFIGURATION
    path = write(tmp_path, name, text)
    assert facts.configuration(tmp_path, RELEASE) == KernelConfiguration(str(path), OPTIONS)


def test_modules(tmp_path: Path) -> None:
    assert facts.modules(tmp_path, RELEASE, None) == KernelModules()
    write(tmp_path, "proc/modules", "kvm_intel 438272 0 - Live 0x0000000000000000\nvsock 61440 1 - Live 0x0\n")
    write(tmp_path, f"lib/modules/{RELEASE}/modules.builtin", "kernel/drivers/virtio/virtio-pci.ko\n")
    depends = "kernel/drivers/vhost/vhost_vsock.ko.xz: kernel/net/vmw_vsock/vsock.ko.xz\nkernel/a/hv-sock.ko:\n"
    write(tmp_path, f"lib/modules/{RELEASE}/modules.dep", depends)
    assert facts.modules(tmp_path, RELEASE, None) == KernelModules(
        loaded=("kvm_intel", "vsock"), builtin=("virtio_pci",), available=("vhost_vsock", "hv_sock")
    )


def test_what_is_built_in_needs_no_modules_to_be_installed(tmp_path: Path) -> None:
    configured = KernelConfiguration("x", {"CONFIG_VIRTIO_VSOCKETS": "y", "CONFIG_VHOST_VSOCK": "m"})
    assert facts.modules(tmp_path, RELEASE, configured).builtin == ("vmw_vsock_virtio_transport",)


def test_firmware_processor_and_parameters(tmp_path: Path) -> None:
    assert facts.dmi(tmp_path, "sys_vendor") == ""
    assert facts.parameters(tmp_path) == {}
    write(tmp_path, "sys/class/dmi/id/sys_vendor", "VMware, Inc.\n")
    write(tmp_path, "sys/module/kvm_amd/parameters/nested", "1\n")
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vme hypervisor\nbugs\t\t:\n")
    assert facts.dmi(tmp_path, "sys_vendor") == "VMware, Inc."
    assert facts.parameters(tmp_path) == {"kvm_amd.nested": "1"}
    assert facts.cpu_flags(tmp_path) == ("fpu", "vme", "hypervisor")


def test_where_a_running_program_looks_for_others(tmp_path: Path) -> None:
    assert facts.path_of(tmp_path, "containerd") is None
    write(tmp_path, "proc/7/comm", "bash\n")
    write(tmp_path, "proc/8/comm", "containerd\n")  # has ended
    assert facts.path_of(tmp_path, "containerd") is None
    write_containerd(tmp_path, 9, "/usr/bin:/bin", parent=700)
    assert facts.path_of(tmp_path, "containerd") == ("/usr/bin", "/bin", "/opt/containerd/bin")


def write_containerd(root: Path, number: int, path: str, *, parent: int, configuration: str | None = None) -> None:
    option = [] if configuration is None else ["--config", configuration]
    write(root, f"proc/{number}/comm", "containerd\n")
    write(root, f"proc/{number}/cmdline", "".join(f"{word}\0" for word in ["/usr/bin/containerd", *option]))
    write(root, f"proc/{number}/stat", f"{number} (contain) erd) S {parent} {number} {number} 0 -1\n")
    write(root, f"proc/{number}/environ", f"HOME=/\0PATH={path}\0")
    (root / f"proc/{number}/exe").symlink_to("/opt/containerd/bin/containerd")


def test_the_containerd_of_another_run_of_kvtest_is_not_the_machines(tmp_path: Path) -> None:
    write_containerd(tmp_path, 100, "/ours", parent=99, configuration="/run/kvtest-0123abcd/config.toml")
    write_containerd(tmp_path, 101, "/ours", parent=1, configuration="/tmp/kvtest-89abcdef/c/config.toml")  # orphaned
    assert facts.path_of(tmp_path, "containerd") is None
    write_containerd(tmp_path, 102, "/docker", parent=50, configuration="/run/docker/containerd/containerd.toml")
    assert facts.path_of(tmp_path, "containerd") == ("/docker", "/opt/containerd/bin")
    write_containerd(tmp_path, 1000, "/later", parent=1)
    write_containerd(tmp_path, 200, "/machine", parent=1, configuration="/etc/containerd/kvtest-lab/config.toml")
    assert facts.path_of(tmp_path, "containerd") == ("/machine", "/opt/containerd/bin")
