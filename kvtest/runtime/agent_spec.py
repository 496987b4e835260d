# SPDX-License-Identifier: Apache-2.0
"""Containers of the suites as OCI configurations in the agent API's terms, and processes for exec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Root of containers in our own images: busybox under all its names.
CONTAINER_ROOT = "/opt/kvtest/container"
# As Kata's shim asks for them: the network and the cgroups of the guest are those of the pod.
_NAMESPACES = ("pid", "mount", "ipc", "uts")
_ENVIRONMENT = {"PATH": "/bin", "HOME": "/root", "TERM": "linux"}
_MOUNTS = (
    ("/proc", "proc", "proc", ()),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "mode=755", "size=64k")),
    ("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")),
    ("/tmp", "tmpfs", "tmpfs", ("nosuid", "mode=1777")),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
)


def specification(
    name: str,
    argv: Sequence[str],
    *,
    root: str = CONTAINER_ROOT,
    memory: int = 0,
    pids: int = 0,
    mounts: Sequence[Mapping[str, Any]] = (),
    read_only: bool = True,
    **process: Any,
) -> dict[str, Any]:
    """Return the fields of a ``grpc.Spec``.

    Args:
        name: The container; also its host name and the end of its cgroup's path.
        argv: What its first process runs.
        root: Directory in the guest that is its root.
        memory: Limit in bytes; none if 0.
        pids: Limit of processes; none if 0.
        mounts: Fields of ``grpc.Mount`` messages, after those that every container has.
        read_only: Whether it cannot write to its root.
        **process: See :func:`process_fields`.
    """
    resources: dict[str, Any] = {}
    if memory:
        resources["Memory"] = {"Limit": memory}
    if pids:
        resources["Pids"] = {"Limit": pids}
    return {
        "Version": "1.0.2",
        "Process": process_fields(argv, **process),
        "Root": {"Path": root, "Readonly": read_only},
        "Hostname": name,
        "Mounts": [
            {"destination": target, "source": source, "type": kind, "options": options}
            for target, source, kind, options in _MOUNTS
        ]
        + [dict(mount) for mount in mounts],
        "Linux": {
            "CgroupsPath": f"/kvtest/{name}",
            "Namespaces": [{"Type": kind} for kind in _NAMESPACES],
            "Resources": resources,
        },
    }


def process_fields(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    directory: str = "/",
    terminal: tuple[int, int] | None = None,
    user: int = 0,
) -> dict[str, Any]:
    """Return the fields of a ``grpc.Process``.

    Args:
        argv: Program and arguments.
        environment: Variables to add.
        directory: Where it starts.
        terminal: Rows and columns of a terminal for it; pipes if ``None``.
        user: Its user and group.
    """
    fields: dict[str, Any] = {
        "Args": list(argv),
        "Env": [f"{key}={value}" for key, value in {**_ENVIRONMENT, **(environment or {})}.items()],
        "Cwd": directory,
        "User": {"UID": user, "GID": user},
        "Terminal": terminal is not None,
    }
    if terminal is not None:
        fields["ConsoleSize"] = {"Height": terminal[0], "Width": terminal[1]}
    return fields
