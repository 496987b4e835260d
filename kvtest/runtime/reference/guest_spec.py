# SPDX-License-Identifier: Apache-2.0
"""From the OCI configuration of a bundle to that of a container in a guest, in the agent API's terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_CAPABILITIES = ("bounding", "effective", "inheritable", "permitted", "ambient")


def specification(configuration: Mapping[str, Any], name: str, root: str) -> dict[str, Any]:
    """Return the fields of a ``grpc.Spec``.

    Args:
        configuration: The content of ``config.json``, with mounts that can be had in a guest.
        name: The container; also the end of its cgroup's path, as the host's paths mean nothing in a guest.
        root: Its root file system in the guest.
    """
    linux = configuration.get("linux") or {}
    return {
        "Version": configuration.get("ociVersion", "1.0.2"),
        "Process": process(configuration.get("process") or {}),
        "Root": {"Path": root, "Readonly": bool((configuration.get("root") or {}).get("readonly"))},
        "Hostname": configuration.get("hostname", ""),
        "Mounts": [
            {
                "destination": mount["destination"],
                "source": mount.get("source", ""),
                "type": mount.get("type", ""),
                "options": mount.get("options") or [],
            }
            for mount in configuration.get("mounts") or []
        ],
        "Annotations": configuration.get("annotations") or {},
        "Linux": {
            "CgroupsPath": f"/kvtest/{name}",
            "Namespaces": [{"Type": kind} for kind in _namespaces(linux)],
            "Resources": resources(linux.get("resources") or {}),
            "Sysctl": linux.get("sysctl") or {},
            "MaskedPaths": linux.get("maskedPaths") or [],
            "ReadonlyPaths": linux.get("readonlyPaths") or [],
        },
    }


def _namespaces(linux: Mapping[str, Any]) -> Iterator[str]:
    """Yield the kinds of namespaces that a container has in the guest.

    One of the host's that is to be joined becomes one of its own. The network is the guest's, which all containers of
    the pod share, unless one asks for settings of it, which crun makes in a namespace of the container's only.
    """
    settings = [name.replace("/", ".") for name in linux.get("sysctl") or {}]  # either is a name (sysctl(8))
    shared = {"user"} if any(name.startswith("net.") for name in settings) else {"user", "network"}
    for item in linux.get("namespaces") or []:
        if item["type"] not in shared:
            yield item["type"]


def process(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a ``grpc.Process``."""
    user, size = found.get("user") or {}, found.get("consoleSize") or {}
    capabilities = found.get("capabilities") or {}
    return {
        "Terminal": bool(found.get("terminal")),
        "ConsoleSize": {"Height": size.get("height", 0), "Width": size.get("width", 0)},
        "User": {
            "UID": user.get("uid", 0),
            "GID": user.get("gid", 0),
            "AdditionalGids": user.get("additionalGids") or [],
        },
        "Args": found.get("args") or [],
        "Env": found.get("env") or [],
        "Cwd": found.get("cwd", "/"),
        "Capabilities": {name.capitalize(): capabilities.get(name) or [] for name in _CAPABILITIES},
        "Rlimits": [
            {"Type": item["type"], "Hard": item["hard"], "Soft": item["soft"]} for item in found.get("rlimits") or []
        ],
        "NoNewPrivileges": bool(found.get("noNewPrivileges")),
        "OOMScoreAdj": found.get("oomScoreAdj") or 0,
    }


def resources(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of ``grpc.LinuxResources``: the limits that an agent keeps."""
    cpu, memory, pids = (found.get(name) or {} for name in ("cpu", "memory", "pids"))
    return {
        "Memory": {"Limit": memory.get("limit") or 0},
        "CPU": {
            "Shares": cpu.get("shares") or 0,
            "Quota": cpu.get("quota") or 0,
            "Period": cpu.get("period") or 0,
            "Cpus": cpu.get("cpus") or "",
            "Mems": cpu.get("mems") or "",
        },
        "Pids": {"Limit": pids.get("limit") or 0},
    }
