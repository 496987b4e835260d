# SPDX-License-Identifier: Apache-2.0
"""Looking at this machine: the one place of the doctor that does.

Whatever cannot be looked at is noted in :attr:`System.unseen`; nothing here raises, and no program may take long.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kvtest.doctor import facts, kata, kata_drop_ins
from kvtest.doctor.device import reservation_problem
from kvtest.doctor.kata_configuration import configuration_paths
from kvtest.doctor.programs import Programs, ask_all
from kvtest.doctor.system import VHOST_VSOCK, Device, KernelModules, Room, System
from kvtest.errors import ContainerdError, KvtestError, UsageError
from kvtest.host.memory import available_memory
from kvtest.runtime import installation, preflight
from kvtest.settings import Settings

T = TypeVar("T")

_PATH_IN_TEXT = re.compile(r'"(/[^"\n]+)"')
_ROOT = Path("/")


def gather(settings: Settings) -> System:
    """Return this machine's description.

    Args:
        settings: Which QEMU, and where the cache is.
    """
    unseen: dict[str, str] = {}

    def seen(what: str, look: Callable[[], T], otherwise: T) -> T:
        try:
            return look()
        except Exception as error:  # any machine can be described, however strange
            unseen[what] = f"{type(error).__name__}: {error}"
            return otherwise

    release = platform.release()
    vendor, product = (
        seen(f"DMI {name}", functools.partial(facts.dmi, _ROOT, name), "") for name in ("sys_vendor", "product_name")
    )
    configuration = seen("the kernel's configuration", lambda: facts.configuration(_ROOT, release), None)
    given = str(settings.runtime_config) if settings.runtime_config else None
    variable = os.environ.get("KATA_CONF_FILE")
    shim = shutil.which(settings.shim) if settings.shim and settings.runtime in kata.PROFILES else None
    by_containerd = seen("where containerd looks", _found_by_containerd, None)
    programs = seen("programs", lambda: ask_all(settings.qemu, vendor, shim, by_containerd), Programs())
    told = [one.configuration for one in kata.kata_handlers(programs.containerd_configuration)]
    files = _texts(configuration_paths([given, variable, *told]), unseen)
    links = {path: target for path in files if (target := os.path.realpath(path)) != path}
    files |= _texts(_drop_ins([links.get(path, path) for path in files], unseen), unseen)
    return System(
        kernel=release,
        root=os.geteuid() == 0,
        vendor=vendor,
        product=product,
        cpu_flags=seen("the processor", lambda: facts.cpu_flags(_ROOT), ()),
        modules=seen("the kernel's modules", lambda: facts.modules(_ROOT, release, configuration), KernelModules()),
        configuration=configuration,
        parameters=seen("parameters of modules", lambda: facts.parameters(_ROOT), {}),
        vhost_vsock=seen(VHOST_VSOCK, lambda: _tried(VHOST_VSOCK), Device()),
        qemu=programs.qemu,
        services=programs.services,
        programs=programs.found,
        files=files,
        links=links,
        existing=tuple(sorted(filter(os.path.exists, _named_paths(files)))),
        shim=shim,
        found_by_containerd=by_containerd,
        runtime_config=given,
        kata_conf_file=variable,
        containerd_configuration=programs.containerd_configuration,
        containerd_problem=seen("whether containerd starts", lambda: _containerd_problem(programs, settings), None),
        without_runtime=seen("the runtime", lambda: _without_runtime(settings), True),
        cgroups=seen("cgroups", lambda: installation.cgroup_version().value, "unknown"),
        room=Room(
            memory=seen("free memory", available_memory, None),
            shared_memory=seen("/dev/shm", lambda: shutil.disk_usage("/dev/shm").free, None),
            cache=seen("the cache's disk", lambda: _free(settings.cache), None),
        ),
        unseen=unseen,
    )


def _found_by_containerd() -> str | None:
    # As resolveRuntimePath of containerd's core/runtime/v2 does.
    directories = facts.path_of(_ROOT, "containerd")
    if directories is None:
        return None
    found = shutil.which(kata.SHIM, path=":".join(directories))
    return "" if found is None else os.path.realpath(found)


def _without_runtime(settings: Settings) -> bool:
    try:
        installation.find(settings)
    except UsageError:  # which a run says of any runtime
        return False
    except KvtestError:
        return True
    return False


def _containerd_problem(programs: Programs, settings: Settings) -> str | None:
    if any(program.name == "containerd" and program.problem is not None for program in programs.found):
        return None  # that it does not even tell its version is known, and soon
    try:
        preflight.try_containerd(settings)
    except ContainerdError as error:
        first, *log = error.message.splitlines()
        return " ".join([first, *log[-1:]])
    return None


def _tried(device: str) -> Device:
    return Device(True, reservation_problem(device)) if os.path.exists(device) else Device()


def _texts(paths: list[str], unseen: dict[str, str]) -> dict[str, str]:
    found = {}
    for path in paths:
        try:
            found[path] = Path(path).read_text(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            unseen[path] = error.strerror or str(error)
    return found


def _drop_ins(configurations: list[str], unseen: dict[str, str]) -> list[str]:
    found = []
    for directory in dict.fromkeys(map(kata_drop_ins.directory, configurations)):
        try:
            found += [os.path.join(directory, name) for name in os.listdir(directory)]
        except FileNotFoundError:
            continue
        except OSError as error:
            unseen[directory] = error.strerror or str(error)
    return found


def _named_paths(files: dict[str, str]) -> set[str]:
    return {path for text in files.values() for path in _PATH_IN_TEXT.findall(text)}


def _free(directory: Path) -> int:
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free
