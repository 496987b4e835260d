# SPDX-License-Identifier: Apache-2.0
"""Kata Containers' configuration: which file is in force, and whether what it says will do."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import frozen

from kvtest.doctor.kata import COMMAND, NEEDS, SHIM, installed, is_rust, kata_handlers, started, version
from kvtest.doctor.report import Check, Finding, Need, Status
from kvtest.doctor.system import System
from kvtest.runtime import profile
from kvtest.settings import Settings

ALWAYS_VSOCK = (2, 0)  # kata-containers 1099a28830: use_vsock and the proxy removed
_FILES = ("path", "kernel", "image", "initrd")
_GO_DIAL_SECONDS = 30  # defaultDialTimeout of the Go runtime; its templates ship 45
_RUST_SECONDS = 10  # MIN_RECONNECT_TIMEOUT_MS of runtime-rs
_HYBRID = ("firecracker", "clh", "cloud-hypervisor", "dragonball")  # vsock over a Unix socket of the hypervisor's


def needs(system: System) -> frozenset[Need]:
    """Return what Kata, as it is configured, needs: some of its hypervisors have vsock without the host's device."""
    setup = _Setup.of(system)
    with contextlib.suppress(tomllib.TOMLDecodeError, KeyError):
        if setup.path is not None and _hypervisor(tomllib.loads(system.files[setup.path]))[0] in _HYBRID:
            return frozenset(NEEDS)
    return frozenset((*NEEDS, Need.VHOST_VSOCK))


def configuration_paths(told: Iterable[str | None]) -> list[str]:
    """Return every file that may be Kata's configuration.

    Args:
        told: Those that somebody names.
    """
    return list(dict.fromkeys([*filter(None, told), *_defaults(rust=False), *_defaults(rust=True)]))


def _defaults(*, rust: bool) -> tuple[str, ...]:
    configured = profile.load("kata-rs" if rust else "kata").configuration
    return configured.paths if configured else ()


def _order(system: System, *, rust: bool) -> dict[str, str]:
    """Return the files that may be in force, the first that is there is; to each, who names it.

    A shim takes the file of its options before that of the variable, and that before its own places (read in the
    source of the Go runtime, ``loadRuntimeConfig``). A pod's annotation, which goes before all, is not seen here.
    """
    named = dict.fromkeys(reversed(_defaults(rust=rust)), "its default")
    if system.kata_conf_file:
        named.pop(system.kata_conf_file, None)
        named[system.kata_conf_file] = "KATA_CONF_FILE"
    for handler in reversed(kata_handlers(system.containerd_configuration)):
        if handler.configuration:
            named.pop(handler.configuration, None)
            named[handler.configuration] = f"containerd's runtime {handler.name}"
    if system.runtime_config:
        named.pop(system.runtime_config, None)
        named[system.runtime_config] = "--runtime-config"
    return dict(reversed(named.items()))


@frozen
class _Setup:
    """What would run: a version, a kind, and a configuration."""

    version: tuple[int, ...] | None
    rust: bool
    path: str | None
    unreadable: str | None = None

    @classmethod
    def of(cls, system: System) -> _Setup:
        shim = started(system) or next(iter(system.found(SHIM)), None)
        rust = is_rust(shim) if shim is not None else not system.found(COMMAND)
        for path in _order(system, rust=rust):
            if path in system.files:
                return cls(version(system), rust, path)
            if path in system.unseen:
                return cls(version(system), rust, path, system.unseen[path])
        return cls(version(system), rust, None)


def _configuration(system: System, settings: Settings) -> Iterator[Finding]:
    if not installed(system):
        return
    name, setup = "Kata configuration", _Setup.of(system)
    order = _order(system, rust=setup.rust)
    if setup.path is None:
        yield Finding(name, f"none of {', '.join(order)}", Status.MISSING, NEEDS, f"put it at {next(reversed(order))}")
        return
    if setup.unreadable is not None:
        yield Finding(name, f"{setup.path}: {setup.unreadable}", Status.MISSING, NEEDS, f"sudo cat {setup.path}")
        return
    try:
        table = tomllib.loads(system.files[setup.path])
    except tomllib.TOMLDecodeError as error:
        yield Finding(name, f"{setup.path} is no TOML: {error}", Status.MISSING, NEEDS, f"mend {setup.path}")
        return
    hidden = [f"{path}, {who}" for path, who in order.items() if path in system.files and path != setup.path]
    more = f"; there is also {'; '.join(hidden)}" if hidden else ""
    yield Finding(name, f"{setup.path}, {order[setup.path]}{more}", Status.OK, NEEDS)
    hypervisor, section = _hypervisor(table)
    yield from _use_vsock(setup, table, section)
    yield from _files(setup.path, hypervisor, section, system)
    yield from _patience(setup, table)


def _hypervisor(table: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the hypervisor's name and section; runtime-rs names one of several, the Go runtime's files have one."""
    sections = _section(table, "hypervisor")
    chosen = _section(table, "runtime").get("hypervisor_name")
    name = str(chosen) if chosen in sections else next(iter(sections), "")
    return name, _section(sections, name)


def _section(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = table.get(name, {})
    return found if isinstance(found, Mapping) else {}


def _use_vsock(setup: _Setup, table: Mapping[str, Any], section: Mapping[str, Any]) -> Iterator[Finding]:
    name, value = "Kata use_vsock", section.get("use_vsock")
    if setup.version is None:
        found = f"{value!r}, which counts only before 2.0; the version is unknown"
        yield Finding(name, found, Status.WARNING, NEEDS, f"{SHIM} --version")
    elif setup.version >= ALWAYS_VSOCK:
        said = "removed in 2.0: always vsock"
        if value is None:
            yield Finding(name, said, Status.OK, NEEDS)
        else:
            found = f"{str(value).lower()}, which has no effect; {said}"
            yield Finding(name, found, Status.WARNING, NEEDS, f"sed -i /^use_vsock/d {setup.path}")
    elif value is True:
        yield Finding(name, "true", Status.OK, NEEDS)
    else:
        said = "not set, which is false" if value is None else str(value).lower()
        cure = f"sed -i 's/^#* *use_vsock *=.*/use_vsock = true/' {setup.path}"
        yield Finding(name, f"{said}: the agent is reached over a serial port", Status.MISSING, NEEDS, cure)


def _files(path: str, hypervisor: str, section: Mapping[str, Any], system: System) -> Iterator[Finding]:
    name = "Kata hypervisor"
    if not section:
        yield Finding(name, f"{path} has no [hypervisor.NAME]", Status.MISSING, NEEDS, f"mend {path}")
        return
    named = {key: str(section[key]) for key in _FILES if section.get(key)}
    lost = {key: value for key, value in named.items() if value not in system.existing}
    wanting = [] if "kernel" in named else ["kernel"]
    wanting += [] if {"image", "initrd"} & set(named) else ["image or initrd"]
    if lost:
        listed = ", ".join(f"{key} {value}" for key, value in lost.items())
        yield Finding(name, f"{hypervisor}: not there: {listed}", Status.MISSING, NEEDS, f"install it, or mend {path}")
    if wanting:
        yield Finding(
            name, f"{hypervisor}: {path} names no {' and no '.join(wanting)}", Status.MISSING, NEEDS, f"mend {path}"
        )
    if not lost and not wanting:
        listed = ", ".join(f"{key} {value}" for key, value in named.items())
        yield Finding(name, f"{hypervisor}: {listed}", Status.OK, NEEDS)


def _patience(setup: _Setup, table: Mapping[str, Any]) -> Iterator[Finding]:
    agent = _section(_section(table, "agent"), "kata")
    if setup.rust:
        milliseconds = agent.get("reconnect_timeout_ms")
        at_least = f"runtime-rs dials for at least {_RUST_SECONDS} s"
        yield Finding(
            "Kata dial timeout", f"reconnect_timeout_ms {milliseconds or 'not set'}; {at_least}", Status.OK, NEEDS
        )
    elif setup.version is None or setup.version >= ALWAYS_VSOCK:
        value = agent.get("dial_timeout")
        found = f"{value} s" if value else f"not set: {_GO_DIAL_SECONDS} s"
        if isinstance(value, int) and 0 < value < _GO_DIAL_SECONDS:
            cure = f"dial_timeout = 45 in [agent.kata] of {setup.path}"
            yield Finding(
                "Kata dial timeout", f"{found}: short for a guest that boots without KVM", Status.WARNING, NEEDS, cure
            )
        else:
            yield Finding("Kata dial timeout", found, Status.OK, NEEDS)


CHECKS = (Check("Kata configuration", NEEDS, _configuration),)
