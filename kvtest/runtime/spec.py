# SPDX-License-Identifier: Apache-2.0
"""What a container is made of: config.json of the OCI runtime specification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_PATH = "PATH=/bin:/usr/bin"
# How CRI implementations tell shims which containers are of one pod.
_POD = "io.kubernetes.cri.sandbox-id"
_KIND = "io.kubernetes.cri.container-type"
_MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware")
_CAPABILITIES = ("CAP_KILL", "CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID")


def process(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, *, terminal: bool = False
) -> dict[str, Any]:
    """Return a process, of a container or beside its first one.

    Args:
        arguments: Program and arguments.
        environment: What is added to its environment.
        terminal: Whether it has a terminal.
    """
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(arguments),
        "env": [_PATH, *(f"{name}={value}" for name, value in (environment or {}).items())],
        "cwd": "/",
        "noNewPrivileges": True,
        "capabilities": {kind: list(_CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
    }


def memory_limit(size: int) -> dict[str, Any]:
    """Return limits, as ``linux.resources`` has them, of a container that is to have so much memory and no swap.

    Where there is no swap that is not said: a kernel that cannot limit it would refuse.

    Args:
        size: Bytes.
    """
    limit = {"limit": size}
    with open("/proc/swaps", encoding="ascii", errors="replace") as stream:
        if len(stream.readlines()) > 1:  # a line for each, below that of the titles
            limit["swap"] = size  # of memory and swap together
    return {"memory": limit}


def container(
    pod: str,
    name: str,
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    terminal: bool = False,
    hooks: Mapping[str, Sequence[str]] | None = None,
    resources: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the specification of a container.

    The path of its cgroup is relative: below that of the caller, so that the caller's limits hold for it; and of one
    part, so that no parent of it stays.

    Args:
        pod: ID of the pod; also that of its first container.
        name: ID of the container.
        arguments: Program and arguments.
        environment: What is added to its environment.
        terminal: Whether it has a terminal.
        hooks: Programs with arguments that the runtime runs on the host, by when it does, such as ``createRuntime``.
        resources: Its limits, as ``linux.resources`` has them.
    """
    return {
        "ociVersion": "1.0.2",
        "process": process(arguments, environment, terminal=terminal),
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "container",
        "hooks": {when: [{"path": hook[0], "args": list(hook)}] for when, hook in (hooks or {}).items()},
        "annotations": {_POD: pod, _KIND: "sandbox" if pod == name else "container"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
        ],
        "linux": {
            "cgroupsPath": name,
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
            "maskedPaths": list(_MASKED),
            "resources": resources or {},
        },
    }
