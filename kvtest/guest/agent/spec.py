# SPDX-License-Identifier: Apache-2.0
"""From the OCI configuration as the agent API carries it to the one that crun reads (opencontainers/runtime-spec)."""

from __future__ import annotations

from typing import Any

_CAPABILITIES = ("Bounding", "Effective", "Inheritable", "Permitted", "Ambient")
_PERIOD = 100_000  # microseconds, the kernel's own; without one crun takes no notice of a quota that is lifted


def configuration(spec: Any, name: str) -> dict[str, Any]:
    """Return a ``config.json``.

    Args:
        spec: A ``grpc.Spec``.
        name: The container, for its cgroup where the specification has none.
    """
    linux: dict[str, Any] = {
        "cgroupsPath": cgroup_path(spec.Linux.CgroupsPath, name),
        "namespaces": [_without_empty({"type": item.Type, "path": item.Path}) for item in spec.Linux.Namespaces],
        "resources": resources(spec.Linux.Resources),
        "sysctl": dict(spec.Linux.Sysctl),
        "maskedPaths": list(spec.Linux.MaskedPaths),
        "readonlyPaths": list(spec.Linux.ReadonlyPaths),
        # As runc has it: what is unmounted in the guest goes from containers too. crun would keep it.
        "rootfsPropagation": spec.Linux.RootfsPropagation or "rslave",
    }
    return _without_empty(
        {
            "ociVersion": spec.Version or "1.0.2",
            "process": process(spec.Process),
            "root": {"path": spec.Root.Path, "readonly": spec.Root.Readonly},
            "hostname": spec.Hostname,
            "mounts": [
                _without_empty(
                    {
                        "destination": mount.destination,
                        "source": mount.source,
                        "type": mount.type,
                        "options": list(mount.options),
                    }
                )
                for mount in spec.Mounts
            ],
            "annotations": dict(spec.Annotations),
            "linux": _without_empty(linux),
        }
    )


def process(message: Any) -> dict[str, Any]:
    """Return the ``process`` of a configuration from a ``grpc.Process``."""
    capabilities = {name.lower(): list(getattr(message.Capabilities, name)) for name in _CAPABILITIES}
    result: dict[str, Any] = {
        "terminal": message.Terminal,
        "user": _without_empty(
            {
                "uid": message.User.UID,
                "gid": message.User.GID,
                "additionalGids": list(message.User.AdditionalGids),
            },
            keep=("uid", "gid"),
        ),
        "args": list(message.Args),
        "env": list(message.Env),
        "cwd": message.Cwd or "/",
        "capabilities": _without_empty(capabilities),
        "rlimits": [{"type": item.Type, "hard": item.Hard, "soft": item.Soft} for item in message.Rlimits],
        "noNewPrivileges": message.NoNewPrivileges,
    }
    if message.ConsoleSize.Height and message.ConsoleSize.Width:
        result["consoleSize"] = {"height": message.ConsoleSize.Height, "width": message.ConsoleSize.Width}
    if message.OOMScoreAdj:
        result["oomScoreAdj"] = message.OOMScoreAdj
    return _without_empty(result, keep=("args",))


def resources(message: Any) -> dict[str, Any]:
    """Return the ``resources`` of a configuration from ``grpc.LinuxResources``: what is not 0."""
    cpu = {
        "shares": message.CPU.Shares,
        "quota": message.CPU.Quota,
        "period": message.CPU.Period,
        "cpus": message.CPU.Cpus,
        "mems": message.CPU.Mems,
    }
    if cpu["quota"] < 0 and not cpu["period"]:
        cpu["period"] = _PERIOD
    return _without_empty(
        {
            "memory": _without_empty({"limit": message.Memory.Limit}),
            "cpu": _without_empty(cpu),
            "pids": _without_empty({"limit": message.Pids.Limit}),
        }
    )


def cgroup_path(path: str, name: str) -> str:
    """Return a container's cgroup: its own path, or one below ours where it has none, or one in systemd's terms."""
    return path if path.startswith("/") and ".." not in path.split("/") else f"/kvtest/{name}"


def _without_empty(table: dict[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value or key in keep}
