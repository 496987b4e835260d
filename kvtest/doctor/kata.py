# SPDX-License-Identifier: Apache-2.0
"""Kata Containers: what of it is installed, and which shim is in use."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator

from kvtest.doctor.containerd import Handler, handlers
from kvtest.doctor.report import Check, Finding, Need, Status
from kvtest.doctor.system import Program, System
from kvtest.runtime import profile
from kvtest.settings import Settings

SHIM = "containerd-shim-kata-v2"
RUNTIME = "io.containerd.kata.v2"
_TYPES = ("io.containerd.kata.", "io.containerd.kata-")  # kata-deploy has one for each hypervisor
PROFILES = ("kata", "kata-rs")
COMMAND = "kata-runtime"  # Go; in 1.x the runtime itself
RUST_COMMAND = "kata-ctl"
SHIPPED = ("/opt/kata/bin", "/opt/kata/runtime-rs/bin")
"""Where the kata-static release has shims that need not be on PATH."""
OLDEST = (1, 2)  # Kata's document on VSOCKs: 1.2.0
NEEDS = (Need.KATA,)


def installed(system: System) -> bool:
    """Return whether there is anything of Kata."""
    return any(system.found(name) for name in (SHIM, COMMAND, RUST_COMMAND))


def kata_handlers(configuration: str | None) -> tuple[Handler, ...]:
    """Return the runtimes of containerd that are Kata's, the one of the usual type first.

    Args:
        configuration: What ``containerd config dump`` prints; there are none where it is no TOML.
    """
    with contextlib.suppress(tomllib.TOMLDecodeError):
        found = [one for one in handlers(configuration) if one.type.startswith(_TYPES) or _is_shim(one.shim)]
        return tuple(sorted(found, key=lambda one: one.type != RUNTIME))
    return ()


def _is_shim(path: str | None) -> bool:
    return path is not None and path.rpartition("/")[2] == SHIM


def is_rust(program: Program) -> bool:
    """Return whether a shim is that of runtime-rs: it says so, or is where its releases put it."""
    if "(Rust)" in program.said or "(Golang)" in program.said:
        return "(Rust)" in program.said
    return "/runtime-rs/" in (program.target or program.path)


def started(system: System) -> Program | None:
    """Return the shim in use: that of the settings, else that which containerd starts, else the first on PATH."""
    shims = system.found(SHIM)
    if system.shim is not None:
        return next((shim for shim in shims if shim.path == system.shim), None)
    configured = [one.shim for one in kata_handlers(system.containerd_configuration) if one.shim]
    for shim in shims:
        if configured and configured[0] in (shim.path, shim.target):
            return shim
    if system.found_by_containerd:
        return next((shim for shim in shims if system.found_by_containerd in (shim.path, shim.target)), None)
    return next((shim for shim in shims if shim.on_path), None)


def version(system: System) -> tuple[int, ...] | None:
    """Return Kata's version: what the shim says, and if that is of 1.x and does not tell, the command."""
    shim = started(system)
    for program in (*([shim] if shim else []), *system.found(COMMAND), *system.found(RUST_COMMAND)):
        if program.version is not None:
            return tuple(int(word) for word in program.version.split("."))
    return None


def _shims(system: System, _settings: Settings) -> Iterator[Finding]:
    for command in system.found(COMMAND):  # in 1.x before 1.5 there is no shim v2, and this is the runtime
        yield _versioned(COMMAND, command.path, command.version, command.problem)
    shims = system.found(SHIM)
    if not shims:
        yield Finding("Kata shim", f"no {SHIM}", Status.MISSING, NEEDS, profile.load("kata").cure)
        return
    for shim in shims:
        told = shim.version or (".".join(map(str, version(system) or ())) or None)
        yield _versioned("Kata shim", f"{shim.path} ({_kind(shim)})", told, shim.problem)
    first = started(system)
    if first is None:
        found = f"{shims[0].path} is not on PATH, nor named by containerd's configuration"
        cure = f"ln -s {shims[0].path} /usr/local/bin/{SHIM}"
        yield Finding("Kata shim in use", found, Status.MISSING, NEEDS, cure)
    elif system.shim is None and system.found_by_containerd == "" and not _named(system):
        found = f"the containerd that runs does not find {first.path} on its PATH"
        yield Finding("Kata shim in use", found, Status.WARNING, NEEDS, f"ln -s {first.path} /usr/local/bin/{SHIM}")
    elif others := [shim.path for shim in shims if is_rust(shim) != is_rust(first)]:
        found = f"both the Go and the Rust runtime are installed; {_why(system)} {_kind(first)}, {first.path}"
        cure = f'to test the other: --shim {others[0]}; for containerd: runtime_path = "{others[0]}" of its runtime'
        yield Finding("Kata shim in use", found, Status.WARNING, NEEDS, cure)


def _why(system: System) -> str:
    if system.shim is not None:
        return "--shim names"
    named = _named(system)
    by = (
        "its configuration" if named else "PATH" if system.found_by_containerd is None else "the PATH that it runs with"
    )
    return f"containerd, by {by}, starts"


def _named(system: System) -> bool:
    return any(one.shim for one in kata_handlers(system.containerd_configuration))


def _kind(shim: Program) -> str:
    return "Rust" if is_rust(shim) else "Go"


def _versioned(name: str, what: str, version: str | None, problem: str | None) -> Finding:
    cure = profile.load("kata").cure
    if version is None:
        found = f"{what}: version unknown ({problem or 'it does not tell'})"
        return Finding(name, found, Status.WARNING, NEEDS, f"{what.split(' ', maxsplit=1)[0]} --version")
    if _numbers(version) < OLDEST:
        return Finding(name, f"{what}: {version}; vsock came with 1.2.0", Status.MISSING, NEEDS, cure)
    return Finding(name, f"{what}: {version}", Status.OK, NEEDS)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in version.split("."))


CHECKS = (Check("Kata shim", NEEDS, _shims),)
