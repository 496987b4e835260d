# SPDX-License-Identifier: Apache-2.0
"""Containers of the suites as OCI configurations in the agent API's terms, and processes for exec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Root of containers in our own images: busybox under all its names.
CONTAINER_ROOT = "/opt/kvtest/container"
WRITABLE_OVERLAY = "io.katacontainers.fs-opt.overlay-rw"
"""The option of an overlay, among a container's storages, that the container is to write to."""
# As Kata's shim asks for them: the network and the cgroups of the guest are those of the pod.
_NAMESPACES = ("pid", "mount", "ipc", "uts")
_CAPABILITY_SETS = ("Bounding", "Effective", "Permitted")
# What containerd gives containers. Kata's agent refuses a specification that says nothing of them.
_CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP"),
        *("NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
    )
)
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
    cpu: Mapping[str, Any] | None = None,
    mounts: Sequence[Mapping[str, Any]] = (),
    read_only: bool = True,
    linux: Mapping[str, Any] | None = None,
    **process: Any,
) -> dict[str, Any]:
    """Return the fields of a ``grpc.Spec``.

    Args:
        name: The container; also its host name and the end of its cgroup's path.
        argv: What its first process runs.
        root: Directory in the guest that is its root.
        memory: Limit in bytes; none if 0.
        pids: Limit of processes; none if 0.
        cpu: Fields of a ``grpc.LinuxCPU``; no limits if ``None``.
        mounts: Fields of ``grpc.Mount`` messages, after those that every container has.
        read_only: Whether it cannot write to its root.
        linux: Further fields of its ``grpc.Linux``.
        **process: See :func:`process_fields`.
    """
    resources: dict[str, Any] = {}
    if memory:
        resources["Memory"] = {"Limit": memory}
    if pids:
        resources["Pids"] = {"Limit": pids}
    if cpu:
        resources["CPU"] = dict(cpu)
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
            **(linux or {}),
        },
    }


def process_fields(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    directory: str = "/",
    terminal: tuple[int, int] | None = None,
    user: int = 0,
    group: int | None = None,
    groups: Sequence[int] = (),
    capabilities: Sequence[str] | None = None,
    limits: Mapping[str, tuple[int, int]] | None = None,
    no_new_privileges: bool = False,
    oom_score: int = 0,
) -> dict[str, Any]:
    """Return the fields of a ``grpc.Process``.

    Args:
        argv: Program and arguments.
        environment: Variables to add.
        directory: Where it starts.
        terminal: Rows and columns of a terminal for it; pipes if ``None``.
        user: Its user.
        group: Its group; the number of its user if ``None``.
        groups: Further groups of it.
        capabilities: What it may do, and what its programs may at most; what containerd gives containers if ``None``.
        limits: Soft and hard limits of its resources, by names such as ``RLIMIT_NOFILE``.
        no_new_privileges: Whether no program that it runs gets more privileges.
        oom_score: How much sooner than others it is killed for want of memory.
    """
    fields: dict[str, Any] = {
        "Args": list(argv),
        "Env": [f"{key}={value}" for key, value in {**_ENVIRONMENT, **(environment or {})}.items()],
        "Cwd": directory,
        "User": {"UID": user, "GID": user if group is None else group, "AdditionalGids": groups},
        "Terminal": terminal is not None,
        "Rlimits": [{"Type": name, "Soft": soft, "Hard": hard} for name, (soft, hard) in (limits or {}).items()],
        "NoNewPrivileges": no_new_privileges,
        "OOMScoreAdj": oom_score,
        "Capabilities": dict.fromkeys(_CAPABILITY_SETS, _CAPABILITIES if capabilities is None else capabilities),
    }
    if terminal is not None:
        fields["ConsoleSize"] = {"Height": terminal[0], "Width": terminal[1]}
    return fields
