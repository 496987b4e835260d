# SPDX-License-Identifier: Apache-2.0
"""Kata Containers' configuration: which file is in force, and whether what it says will do."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator

from attrs import frozen

from kvtest.doctor import kata_drop_ins as drop_ins
from kvtest.doctor.kata import COMMAND, NEEDS, SHIM, installed, is_rust, kata_handlers, started, version
from kvtest.doctor.kata_drop_ins import Values
from kvtest.doctor.report import Check, Finding, Need, Status
from kvtest.doctor.system import System
from kvtest.runtime import profile
from kvtest.runtime.hypervisor import chosen
from kvtest.settings import Settings

ALWAYS_VSOCK = (2, 0)  # kata-containers 1099a28830: use_vsock and the proxy removed
_FILES = ("path", "kernel", "image", "initrd")
_GO_DIAL_SECONDS = 30  # defaultDialTimeout of the Go runtime; its templates ship 45
_SHIPPED = {"dial_timeout": 45, "reconnect_timeout_ms": 3000}  # what the templates of configurations have
_AGENT = ("agent", "kata")
_RUST_SECONDS = 10  # MIN_RECONNECT_TIMEOUT_MS of runtime-rs
_HYBRID = ("firecracker", "clh", "cloud-hypervisor", "dragonball")  # vsock over a Unix socket of the hypervisor's


def needs(system: System) -> frozenset[Need]:
    """Return what Kata, as it is configured, needs: some of its hypervisors have vsock without the host's device."""
    setup = _Setup.of(system)
    try:
        values = setup.values(system)
    except (tomllib.TOMLDecodeError, KeyError):  # there is none, or none that can be read
        return frozenset((*NEEDS, Need.VHOST_VSOCK))
    return frozenset(NEEDS if _hypervisor(values) in _HYBRID else (*NEEDS, Need.VHOST_VSOCK))


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

    The Go runtime takes the file of its options before that of the variable, runtime-rs the other way round, and both
    take those before their own places (``loadRuntimeConfig`` of the one, ``load_config`` of the other). A pod's
    annotation, which goes before all, is not seen here.
    """
    options = [
        (handler.configuration, f"containerd's runtime {handler.name}")
        for handler in kata_handlers(system.containerd_configuration)
        if handler.configuration
    ]
    variable = [(system.kata_conf_file, "KATA_CONF_FILE")] if system.kata_conf_file else []
    given = [(system.runtime_config, "--runtime-config")] if system.runtime_config else []
    named: dict[str, str] = {}
    for path, who in (*given, *(variable + options if rust else options + variable)):
        named.setdefault(path, who)
    for path in _defaults(rust=rust):
        named.setdefault(path, "its default")
    return named


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

    @property
    def takes_drop_ins(self) -> bool:
        """Whether it looks for drop-in files."""
        return self.rust or self.version is None or self.version >= drop_ins.OLDEST

    def values(self, system: System) -> Values:
        """Return the values in force; those of files that cannot be used are left out.

        Raises:
            KeyError: There is no configuration that can be read.
            TOMLDecodeError: It is no TOML.
        """
        path = self.path or ""
        over = drop_ins.fragments(system, path) if self.takes_drop_ins else ()
        return Values.of(path, tomllib.loads(system.files[path]), over)


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
        values = setup.values(system)
    except tomllib.TOMLDecodeError as error:
        yield Finding(name, f"{setup.path} is no TOML: {error}", Status.MISSING, NEEDS, f"mend {setup.path}")
        return
    hidden = [f"{path}, {who}" for path, who in order.items() if path in system.files and path != setup.path]
    more = f"; there is also {'; '.join(hidden)}" if hidden else ""
    yield Finding(name, f"{setup.path}, {order[setup.path]}{more}", Status.OK, NEEDS)
    yield from _drop_ins(setup, system)
    yield from _use_vsock(setup, values, system)
    yield from _files(values, system, rust=setup.rust)
    yield from _patience(setup, values)


def _drop_ins(setup: _Setup, system: System) -> Iterator[Finding]:
    name = "Kata drop-in files"
    found = drop_ins.fragments(system, setup.path or "")
    if not found:
        return
    listed = ", ".join(fragment.path for fragment in found)
    if not setup.takes_drop_ins:
        told = f"{listed}: not in force, the Go runtime reads them from 2.5 on"
        yield Finding(name, told, Status.WARNING, NEEDS, f"put what they say into {setup.path}")
        return
    broken = [fragment for fragment in found if fragment.problem is not None]
    for fragment in broken:
        told = f"{fragment.path}: {fragment.problem}; Kata does not start with it"
        yield Finding(name, told, Status.MISSING, NEEDS, f"mend {fragment.path}, or move it away")
    if not broken:
        yield Finding(name, f"in force, a later one before an earlier one: {listed}", Status.OK, NEEDS)


def _hypervisor(values: Values) -> str:
    return chosen(values.section("runtime"), values.section("hypervisor")) or ""


def _use_vsock(setup: _Setup, values: Values, system: System) -> Iterator[Finding]:
    keys = ("hypervisor", _hypervisor(values), "use_vsock")
    name, value, file = "Kata use_vsock", values.section(*keys[:2]).get("use_vsock"), values.file(*keys)
    if setup.version is None:
        found = f"{value!r}, which counts only before 2.0; the version is unknown"
        yield Finding(name, found, Status.WARNING, NEEDS, f"{SHIM} --version")
    elif setup.version >= ALWAYS_VSOCK:
        said, cure = "removed in 2.0: always vsock", f"sed -i /^use_vsock/d {file}"
        if value is None:
            yield Finding(name, said, Status.OK, NEEDS)
        elif keys in values.origins and not setup.rust:
            # copyFieldValue of the Go runtime: a key that it does not know is an error in these files alone.
            found = f"set by {file}, and the Go runtime does not start with a drop-in file that has it; {said}"
            yield Finding(name, found, Status.MISSING, NEEDS, cure)
        else:
            yield Finding(name, f"{str(value).lower()}, which has no effect; {said}", Status.WARNING, NEEDS, cure)
    elif value is True:
        yield Finding(name, "true", Status.OK, NEEDS)
    else:
        said = "not set, which is false" if value is None else str(value).lower()
        cure = _turned_on(system.files[file], file, keys, there=value is not None)
        yield Finding(name, f"{said}: the agent is reached over a serial port", Status.MISSING, NEEDS, cure)


def _turned_on(text: str, file: str, keys: tuple[str, ...], *, there: bool) -> str:
    """Return the command that makes a key true.

    Args:
        text: The configuration.
        file: Where that is.
        keys: The table, and the key in it.
        there: Whether the configuration has the key: in a comment it does not.
    """
    table, key = ".".join(word or "NAME" for word in keys[:-1]), keys[-1]
    header = r"^[[:space:]]*\[" + table.replace(".", r"\.") + r"\]"
    if not re.search(header.replace("[:space:]", r"\s"), text, re.MULTILINE):
        return f"{key} = true in [{table}] of {file}"
    line = rf"^[[:space:]]*{key}[[:space:]]*="
    mended = rf"/{header}/,/^[[:space:]]*\[/ s/{line}.*/{key} = true/" if there else rf"/{header}/a {key} = true"
    return f"sed -i {shlex.quote(mended)} {shlex.quote(file)}"


def _files(values: Values, system: System, *, rust: bool) -> Iterator[Finding]:
    name, hypervisor, path = "Kata hypervisor", _hypervisor(values), values.base
    section = values.section("hypervisor", hypervisor)
    if not section:
        yield Finding(name, f"{path} has no [hypervisor.NAME]", Status.MISSING, NEEDS, f"mend {path}")
        return
    named = {key: str(section[key]) for key in _FILES if section.get(key)}
    lost = [key for key, value in named.items() if value not in system.existing]
    wanting = [] if "kernel" in named else ["kernel"]
    wanting += [] if {"image", "initrd"} & set(named) else ["image or initrd"]

    def listed(keys: Iterable[str]) -> str:
        return ", ".join(f"{key} {named[key]}{values.told('hypervisor', hypervisor, key)}" for key in keys)

    if lost:
        files = dict.fromkeys(values.file("hypervisor", hypervisor, key) for key in lost)
        cure = f"install it, or mend {' and '.join(files)}"
        yield Finding(name, f"{hypervisor}: not there: {listed(lost)}", Status.MISSING, NEEDS, cure)
    if wanting:
        found = f"{hypervisor}: {path} names no {' and no '.join(wanting)}"
        yield Finding(name, found, Status.MISSING, NEEDS, f"mend {path}")
    both = not rust and {"image", "initrd"} <= set(named)
    if both:
        found = f"{hypervisor}: {listed(['image', 'initrd'])}, and the Go runtime starts with only one of them"
        file = values.file("hypervisor", hypervisor, "initrd")
        yield Finding(name, found, Status.MISSING, NEEDS, f'set the other to "" in {file}')
    if not lost and not wanting and not both:
        yield Finding(name, f"{hypervisor}: {listed(named)}", Status.OK, NEEDS)


def _patience(setup: _Setup, values: Values) -> Iterator[Finding]:
    if not setup.rust and setup.version is not None and setup.version < ALWAYS_VSOCK:
        return
    name, keys = "Kata dial timeout", (*_AGENT, "reconnect_timeout_ms" if setup.rust else "dial_timeout")
    value, told = values.section(*_AGENT).get(keys[-1]), values.told(*keys)
    cure = f"{keys[-1]} = {_SHIPPED[keys[-1]]} in [{'.'.join(_AGENT)}] of {values.file(*keys)}"
    if value is not None and not _is_unsigned(value):  # both runtimes read it as a number of 32 bits
        found = f"{keys[-1]} = {json.dumps(value, default=str)}{told} is no whole number; Kata does not start with it"
        yield Finding(name, found, Status.MISSING, NEEDS, cure)
    elif setup.rust:
        found = f"reconnect_timeout_ms {value or 'not set'}{told}"
        yield Finding(name, f"{found}; runtime-rs dials for at least {_RUST_SECONDS} s", Status.OK, NEEDS)
    elif not value:
        yield Finding(name, f"not set: {_GO_DIAL_SECONDS} s", Status.OK, NEEDS)
    elif value < _GO_DIAL_SECONDS:
        found = f"{value} s{told}: short for a guest that boots without KVM"
        yield Finding(name, found, Status.WARNING, NEEDS, cure)
    else:
        yield Finding(name, f"{value} s{told}", Status.OK, NEEDS)


def _is_unsigned(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32


CHECKS = (Check("Kata configuration", NEEDS, _configuration),)
