# SPDX-License-Identifier: Apache-2.0
"""A kernel's configuration, and what a guest with an agent needs of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from attrs import frozen

from kvtest.start import AgentDisk

_LINE = re.compile(r"(CONFIG_\w+)=(.*)")
# What has to be built in: nothing could load it in time, or it is no module at all.
_BUILT_IN = {
    "CONFIG_CGROUPS": "containers",
    "CONFIG_MEMCG": "the cgroup controller memory",
    "CONFIG_CGROUP_PIDS": "the cgroup controller pids",
    "CONFIG_CGROUP_SCHED": "the cgroup controller cpu",
    "CONFIG_NAMESPACES": "containers",
    "CONFIG_PID_NS": "PID namespaces",
    "CONFIG_IPC_NS": "IPC namespaces",
    "CONFIG_UTS_NS": "UTS namespaces",
    "CONFIG_NET_NS": "network namespaces",
    "CONFIG_DEVTMPFS": "device nodes",
}
# What the guest may load before its agent listens.
_ANYHOW = {
    "CONFIG_VSOCKETS": "vsock",
    "CONFIG_VIRTIO_VSOCKETS": "virtio-vsock, on which the agent listens",
    "CONFIG_VIRTIO_PCI": "virtio devices",
}
_DISKS = {AgentDisk.VIRTIO_BLK: "CONFIG_VIRTIO_BLK", AgentDisk.NVME: "CONFIG_BLK_DEV_NVME"}
_FILE_SYSTEMS = {
    "ext4": "CONFIG_EXT4_FS",
    "xfs": "CONFIG_XFS_FS",
    "erofs": "CONFIG_EROFS_FS",
    "squashfs": "CONFIG_SQUASHFS",
}
_CONSOLE = "CONFIG_SERIAL_8250_CONSOLE"


@frozen
class KernelConfig:
    """How a kernel was configured.

    Args:
        values: The options that are set: ``y``, ``m``, or a value.
        source: Where that is from.
    """

    values: Mapping[str, str]
    source: str


def parse_config(text: str, source: str) -> KernelConfig:
    """Return the configuration in a text of the format of ``.config``."""
    found = (_LINE.fullmatch(line.strip()) for line in text.splitlines())
    return KernelConfig({match[1]: match[2].strip('"') for match in found if match}, source)


def problems(config: KernelConfig, disk: AgentDisk | None = None, file_system: str | None = None) -> Iterator[str]:
    """Yield what a kernel lacks for a guest with an agent.

    Args:
        config: Its configuration.
        disk: What its root file system is on; an initramfs if ``None``.
        file_system: What that holds, if it is known.
    """
    needed = dict(_BUILT_IN)
    if disk is None:
        needed["CONFIG_BLK_DEV_INITRD"] = "an initrd"
    else:
        needed[_DISKS[disk]] = f"its root on {disk}"
        if file_system in _FILE_SYSTEMS:
            needed[_FILE_SYSTEMS[file_system]] = f"its root, which is {file_system}"
    for option, purpose in needed.items():
        value = config.values.get(option, "n")
        if value != "y":
            yield f"{option} is {value} and has to be y, for {purpose}"
    for option, purpose in _ANYHOW.items():
        if option not in config.values:
            yield f"{option} is n and has to be y or m, for {purpose}"


def remarks(config: KernelConfig) -> Iterator[str]:
    """Yield what is worth knowing of a kernel that has what an agent needs."""
    modules = [option for option in _ANYHOW if config.values.get(option) == "m"]
    if modules:
        yield f"{' and '.join(modules)}: modules, which the guest has to load before its agent listens"
    if config.values.get(_CONSOLE) != "y":
        yield f"{_CONSOLE} is not y: console.log will be empty"
