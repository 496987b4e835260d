# SPDX-License-Identifier: Apache-2.0
"""From the OCI configuration of a bundle to that of a container in a guest, in the agent API's terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvtest.runtime.reference.configured import UINT32, UINT64, Table

_CAPABILITIES = ("bounding", "effective", "inheritable", "permitted", "ambient")


def specification(configuration: Mapping[str, Any], name: str, root: str) -> dict[str, Any]:
    """Return the fields of a ``grpc.Spec``.

    Args:
        configuration: The content of ``config.json``, with mounts that can be had in a guest.
        name: The container; also the end of its cgroup's path, as the host's paths mean nothing in a guest.
        root: Its root file system in the guest.

    Raises:
        RPCError: A value is not of its type.
    """
    table = Table.of(configuration)
    linux = table.table("linux")
    return {
        "Version": table.text("ociVersion", "1.0.2"),
        "Process": _process(table.table("process")),
        "Root": {"Path": root, "Readonly": table.table("root").flag("readonly")},
        "Hostname": table.text("hostname"),
        "Mounts": mounts(configuration),
        "Annotations": table.words("annotations"),
        "Linux": {
            "CgroupsPath": f"/kvtest/{name}",
            "Namespaces": [{"Type": kind} for kind in _namespaces(linux)],
            "Resources": _resources(linux.table("resources")),
            "Sysctl": linux.words("sysctl"),
            "MaskedPaths": linux.texts("maskedPaths"),
            "ReadonlyPaths": linux.texts("readonlyPaths"),
        },
    }


def mounts(configuration: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the mounts of a configuration, which are also the fields of ``grpc.Mount`` messages.

    Raises:
        RPCError: A value is not of its type.
    """
    return [
        {
            "destination": mount.text("destination", None),
            "source": mount.text("source"),
            "type": mount.text("type"),
            "options": mount.texts("options"),
        }
        for mount in Table.of(configuration).tables("mounts")
    ]


def root_path(configuration: Mapping[str, Any]) -> str:
    """Return where the root file system is, from the bundle.

    Raises:
        RPCError: It is no text.
    """
    return Table.of(configuration).table("root").text("path", "rootfs")


def _namespaces(linux: Table) -> Iterator[str]:
    """Yield the kinds of namespaces that a container has in the guest.

    One of the host's that is to be joined becomes one of its own. The network is the guest's, which all containers of
    the pod share, unless one asks for settings of it, which crun makes in a namespace of the container's only.
    """
    settings = [name.replace("/", ".") for name in linux.words("sysctl")]  # either is a name (sysctl(8))
    shared = {"user"} if any(name.startswith("net.") for name in settings) else {"user", "network"}
    for item in linux.tables("namespaces"):
        kind = item.text("type", None)
        if kind not in shared:
            yield kind


def process(found: object) -> dict[str, Any]:
    """Return the fields of a ``grpc.Process``.

    Args:
        found: A ``process`` of a configuration.

    Raises:
        RPCError: A value is not of its type.
    """
    return _process(Table.of(found, "process"))


def _process(found: Table) -> dict[str, Any]:
    user, size, capabilities = (found.table(key) for key in ("user", "consoleSize", "capabilities"))
    return {
        "Terminal": found.flag("terminal"),
        "ConsoleSize": {"Height": size.number("height", UINT32), "Width": size.number("width", UINT32)},
        "User": {
            "UID": user.number("uid", UINT32),
            "GID": user.number("gid", UINT32),
            "AdditionalGids": user.numbers("additionalGids", UINT32),
        },
        "Args": found.texts("args"),
        "Env": found.texts("env"),
        "Cwd": found.text("cwd", "/"),
        "Capabilities": {name.capitalize(): capabilities.texts(name) for name in _CAPABILITIES},
        "Rlimits": [
            {
                "Type": limit.text("type", None),
                "Hard": limit.number("hard", UINT64, None),
                "Soft": limit.number("soft", UINT64, None),
            }
            for limit in found.tables("rlimits")
        ],
        "NoNewPrivileges": found.flag("noNewPrivileges"),
        "OOMScoreAdj": found.number("oomScoreAdj"),
    }


def resources(found: object) -> dict[str, Any]:
    """Return the fields of ``grpc.LinuxResources``: the limits that an agent keeps.

    Args:
        found: A ``linux.resources`` of a configuration.

    Raises:
        RPCError: A value is not of its type.
    """
    return _resources(Table.of(found, "linux.resources"))


def _resources(found: Table) -> dict[str, Any]:
    cpu = found.table("cpu")
    return {
        "Memory": {"Limit": found.table("memory").number("limit")},
        "CPU": {
            "Shares": cpu.number("shares", UINT64),
            "Quota": cpu.number("quota"),
            "Period": cpu.number("period", UINT64),
            "Cpus": cpu.text("cpus"),
            "Mems": cpu.text("mems"),
        },
        "Pids": {"Limit": found.table("pids").number("limit")},
    }
