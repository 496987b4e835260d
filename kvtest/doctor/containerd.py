# SPDX-License-Identifier: Apache-2.0
"""containerd, its runtimes, and the programs that the runtime ring starts."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from kvtest.doctor.report import Check, Finding, Need, Status
from kvtest.doctor.system import System
from kvtest.runtime.profile import load
from kvtest.settings import Settings

_NEEDS = (Need.RUNTIME,)
_INSTALL = "apt-get install --no-install-recommends"
# Where containerd's CRI plugin has its runtimes: version 3 of its configuration (containerd 2), and version 2.
_PLUGINS = ("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri")


@frozen
class Handler:
    """A runtime that containerd is told of.

    Args:
        name: What Kubernetes calls it.
        type: Its type, such as ``io.containerd.kata.v2``, from which containerd makes the name of the shim.
        shim: The path of its shim, in place of that.
        configuration: The configuration file that the shim is told.
    """

    name: str
    type: str = ""
    shim: str | None = None
    configuration: str | None = None


def handlers(configuration: str | None) -> tuple[Handler, ...]:
    """Return containerd's runtimes, in the order of their names.

    Args:
        configuration: What ``containerd config dump`` prints.

    Raises:
        TOMLDecodeError: It is no TOML.
    """
    table: Any = tomllib.loads(configuration or "")
    found: dict[str, Handler] = {}
    for plugin in _PLUGINS:
        section: Any = table
        for key in ("plugins", plugin, "containerd", "runtimes"):
            section = section.get(key) if isinstance(section, Mapping) else None
        if isinstance(section, Mapping):
            found.update({name: _handler(name, told) for name, told in section.items() if isinstance(told, Mapping)})
    return tuple(found[name] for name in sorted(found))


def _handler(name: str, told: Mapping[str, Any]) -> Handler:
    options = told.get("options")
    path = options.get("ConfigPath") if isinstance(options, Mapping) else None
    shim = told.get("runtime_path")
    return Handler(name, str(told.get("runtime_type", "")), str(shim) if shim else None, str(path) if path else None)


def _containerd(system: System, _settings: Settings) -> Iterator[Finding]:
    yield _daemon(system)
    if system.containerd_configuration is None:
        return
    try:
        configured = handlers(system.containerd_configuration)
    except tomllib.TOMLDecodeError as error:
        found = f"containerd config dump is no TOML: {error}"
        yield Finding("containerd's runtimes", found, Status.WARNING, cure="containerd config dump")
        return
    listed = ", ".join(f"{one.name} ({one.type or 'no type'})" for one in configured)
    yield Finding("containerd's runtimes", listed or "none configured; kvtest's own containerd needs none", Status.OK)


def _daemon(system: System) -> Finding:
    row = _program(system, "containerd", "containerd", _NEEDS)
    if row.status is not Status.OK or system.containerd_problem is None:
        return row
    cure = "mend it, or leave out what needs it: kvtest run -k 'not containerd'"
    return Finding("containerd", system.containerd_problem, Status.MISSING, _NEEDS, cure)


def _programs(system: System, settings: Settings) -> Iterator[Finding]:
    profile = load(settings.runtime)
    named = {program.name for program in profile.programs} | {profile.options.binary}
    for program, package, others in (("runc", "runc", ()), ("mkfs.erofs", "erofs-utils", (Need.LAB,))):
        yield _program(system, program, package, (*(_NEEDS if program in named else ()), *others))
    yield Finding("crun", "is in the guest's image; none is needed here", Status.OK)


def _program(system: System, name: str, package: str, needed_by: tuple[Need, ...]) -> Finding:
    found = next(iter(system.found(name)), None)
    if found is None:
        return Finding(name, "not found", Status.MISSING, needed_by, f"{_INSTALL} {package}", absent=True)
    if found.problem is not None:
        return Finding(name, f"{found.path}: {found.problem}", Status.MISSING, needed_by, f"{found.path} --version")
    told = f"{found.version} ({found.path})" if found.version else found.path
    return Finding(name, told, Status.OK, needed_by)


CHECKS = (Check("containerd", _NEEDS, _containerd), Check("runc", _NEEDS, _programs))
