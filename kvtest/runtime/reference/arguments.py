# SPDX-License-Identifier: Apache-2.0
"""What containerd tells a shim on its command line (containerd, runtime/v2/README.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kvtest.errors import ShimError

SOCKETS = Path("/run/containerd/s")
ACTIONS = ("start", "delete")
_POD_ANNOTATION = "io.kubernetes.cri.sandbox-id"
_BY_HAND = "ctr run --runtime io.containerd.kvtest.v2 IMAGE NAME (docs/runtimes.md)"
_WITHOUT_VALUE = ("debug", "v", "info")


class Invocation(NamedTuple):
    """One run of the shim.

    Args:
        action: ``start`` or ``delete``.
        namespace: containerd's namespace.
        name: ID of the container.
        address: Socket of containerd; it only makes names differ.
        bundle: Directory of the container.
    """

    action: str
    namespace: str
    name: str
    address: str
    bundle: Path

    def pod_socket(self, pod: str) -> Path:
        """Return the socket of a pod's shim: one for all its containers, and for no other pod."""
        digest = hashlib.sha256(f"{self.address}/{self.namespace}/{pod}/kvtest".encode()).hexdigest()
        return SOCKETS / digest


def parse(words: Sequence[str], directory: Path) -> Invocation:
    """Return what a command line says, in the manner of Go's flags: one dash or two, ``=`` or a word of its own.

    Args:
        words: The arguments.
        directory: The working directory, which is the bundle unless a flag says otherwise.

    Raises:
        ShimError: Something is missing.
    """
    values: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).lstrip("-").partition("=")
        if not equals and name not in _WITHOUT_VALUE:
            if not rest:
                raise ShimError(f"-{name} needs a value")
            value = rest.pop(0)
        values[name] = value
    action = rest[0] if rest else ""
    if action not in ACTIONS:
        raise ShimError(
            f"{action or 'nothing'} is no action of a shim",
            hint=f"known: {', '.join(ACTIONS)}, and it is containerd that runs them; by hand: {_BY_HAND}",
        )
    for name in ("namespace", "id"):
        if not values.get(name):
            raise ShimError(f"-{name} is missing")
    return Invocation(
        action=action,
        namespace=values["namespace"],
        name=values["id"],
        address=values.get("address", ""),
        bundle=Path(values.get("bundle") or directory),
    )


def specification(bundle: Path) -> dict[str, Any]:
    """Return the OCI configuration of a bundle.

    Raises:
        ShimError: There is none, or it is no JSON.
    """
    path = bundle / "config.json"
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ShimError(f"could not read {path}: {error.strerror}", hint="is it an OCI bundle?") from error
    except ValueError as error:
        raise ShimError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ShimError(f"{path} is no configuration of a container")
    return content


def pod_of(specification: dict[str, Any], name: str) -> str:
    """Return the ID of the pod that a container belongs to: its own where nobody says another.

    Raises:
        ShimError: The annotations are none.
    """
    annotations = specification.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise ShimError("annotations of the configuration is no object")
    return str(annotations.get(_POD_ANNOTATION) or name)


def start_time(pid: int) -> str | None:
    """Return when a process was started, in the kernel's ticks; ``None`` if there is none (proc(5), /proc/PID/stat)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()[19]
    except OSError:
        return None
