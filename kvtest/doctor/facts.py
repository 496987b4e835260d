# SPDX-License-Identifier: Apache-2.0
"""What files say of a machine and its kernel; each function is given the root that they are below."""

from __future__ import annotations

import contextlib
import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from kvtest.doctor.kernel import MODULE, OPTION
from kvtest.doctor.system import KernelConfiguration, KernelModules
from kvtest.ownership.run_directory import in_run_directory

_FIRST = 1  # the first process
_UNSEEN = (FileNotFoundError, ProcessLookupError, PermissionError)  # it has ended, or is another user's
# Options whose code, where it is built in, is in no list of modules if the kernel's modules are not installed.
_BUILT_IN = {
    OPTION: MODULE,
    "CONFIG_VMWARE_VMCI_VSOCKETS": "vmw_vsock_vmci_transport",
    "CONFIG_HYPERV_VSOCKETS": "hv_sock",
    "CONFIG_VIRTIO_VSOCKETS": "vmw_vsock_virtio_transport",
}


def dmi(root: Path, name: str) -> str:
    """Return what the firmware says, such as ``sys_vendor``; nothing if it says nothing."""
    path = root / "sys/class/dmi/id" / name
    return path.read_text(errors="replace").strip() if path.exists() else ""


def cpu_flags(root: Path) -> tuple[str, ...]:
    """Return the flags of the first processor (proc(5))."""
    for line in (root / "proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("flags"):
            return tuple(line.partition(":")[2].split())
    return ()


def configuration(root: Path, release: str) -> KernelConfiguration | None:
    """Return how a kernel was configured, by the first file that says so."""
    for path in (
        root / "proc/config.gz",
        root / f"boot/config-{release}",
        root / f"lib/modules/{release}/config",
    ):
        if path.is_file():
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode(errors="replace")
            return KernelConfiguration(str(path), dict(re.findall(r"^(CONFIG_\w*VSOCK\w*)=(\S+)$", text, re.MULTILINE)))
    return None


def modules(root: Path, release: str, configured: KernelConfiguration | None) -> KernelModules:
    """Return the modules of a kernel; its configuration tells of what is built in where they are not installed."""
    base = root / "lib/modules" / release
    options = configured.options if configured is not None else {}
    return KernelModules(
        loaded=tuple(line.split()[0] for line in _lines(root / "proc/modules")),
        builtin=(
            *(_module_name(line) for line in _lines(base / "modules.builtin")),
            *(module for option, module in _BUILT_IN.items() if options.get(option) == "y"),
        ),
        available=tuple(_module_name(line.partition(":")[0]) for line in _lines(base / "modules.dep")),
    )


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(errors="replace").splitlines() if line] if path.exists() else []


def _module_name(path: str) -> str:
    return Path(path).name.partition(".ko")[0].replace("-", "_")


def parameters(root: Path) -> dict[str, str]:
    """Return the parameters of loaded modules that the checks know."""
    paths = {module: root / f"sys/module/{module}/parameters/nested" for module in ("kvm_intel", "kvm_amd")}
    return {f"{module}.nested": path.read_text().strip() for module, path in paths.items() if path.exists()}


def path_of(root: Path, program: str) -> tuple[str, ...] | None:
    """Return where a running program looks for others: its ``PATH``, and its own directory; ``None`` if none tells.

    Of several it is the machine's own, which the first process has started; never one that a kvtest has started.

    Args:
        root: See above.
        program: Its name, as the kernel has it.
    """
    for directory in sorted(_running(root, program), key=lambda path: (_parent(path) != _FIRST, int(path.name))):
        try:
            variables = (directory / "environ").read_bytes().decode(errors="replace").split("\0")
            own = str((directory / "exe").readlink().parent)
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        except PermissionError:  # another user's
            return None
        told = [text.removeprefix("PATH=") for text in variables if text.startswith("PATH=")]
        return (*(one for one in (told[0] if told else "").split(":") if one), own)
    return None


def _running(root: Path, program: str) -> Iterator[Path]:
    """Yield the processes of a program, below ``/proc``, that no kvtest has started."""
    for directory in (root / "proc").glob("[0-9]*"):
        with contextlib.suppress(*_UNSEEN):
            if (directory / "comm").read_text().strip() != program:
                continue
            words = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if not any(map(in_run_directory, words)):
                yield directory


def _parent(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])  # proc(5): after the name, the state
    except _UNSEEN:
        return None
