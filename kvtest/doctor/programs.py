# SPDX-License-Identifier: Apache-2.0
"""Asking programs what they are; none may take long."""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Callable, Iterator

from attrs import frozen

from kvtest.concurrency import at_once
from kvtest.doctor import kata, transports
from kvtest.doctor.system import Emulator, Program
from kvtest.errors import KvtestError
from kvtest.ownership import run
from kvtest.runtime.installation import find_program, search_path

PROGRAM_SECONDS = 3.0
"""Seconds that a program may take to tell its version."""

_VERSION_FLAG = {
    "containerd": "--version",
    "runc": "--version",
    "mkfs.erofs": "--help",  # its first line; 1.5 has no option for that
    kata.SHIM: "--version",
    kata.COMMAND: "--version",
    kata.RUST_COMMAND: "--version",
}


@frozen
class Programs:
    """What programs say; the fields of :class:`System`."""

    found: tuple[Program, ...] = ()
    qemu: Emulator = Emulator(problem="it was not asked")
    containerd_configuration: str | None = None
    services: tuple[str, ...] = ()


def ask(name: str, path: str, flag: str, *, on_path: bool = True, within: float = PROGRAM_SECONDS) -> Program:
    """Ask a program its version; what goes wrong is part of the answer."""
    said, problem = _said([path, flag], within)
    return Program(name, path, os.path.realpath(path), on_path, said, problem)


def _said(command: list[str], within: float = PROGRAM_SECONDS) -> tuple[str, str | None]:
    """Return what a program prints, and what went wrong."""
    try:
        answer = run(command, deadline=within)
    except (KvtestError, OSError) as error:
        return "", str(error).splitlines()[0]
    text = answer.stdout or answer.stderr
    if answer.status == 0:
        return text, None
    last = text.strip().splitlines()[-1:]
    return "", ": ".join([f"exit status {answer.status}", *last])


def ask_all(qemu: str, vendor: str, shim: str | None, found_by_containerd: str | None = None) -> Programs:
    """Ask all programs at once: they may be slow, and each has its own deadline.

    Args:
        qemu: QEMU.
        vendor: Who made the machine, by its firmware.
        shim: The shim of Kata that the settings name.
        found_by_containerd: The one that a running containerd finds, links followed.
    """
    programs: dict[tuple[str, str], Program] = {}
    others: dict[str, tuple[str, str | None]] = {}

    def version(name: str, path: str, on_path: bool) -> None:
        programs[name, path] = ask(name, path, _VERSION_FLAG[name], on_path=on_path)

    def other(key: str, *command: str) -> None:
        others[key] = _said(list(command))

    found = [(name, path, on_path) for name in _VERSION_FLAG for path, on_path in _places(name)]
    jobs: list[Callable[[], None]] = [functools.partial(version, *one) for one in found]
    emulator, containerd, systemctl = shutil.which(qemu), find_program("containerd"), find_program("systemctl")
    if emulator is not None:
        jobs.append(functools.partial(other, "qemu", emulator, "-device", "help"))
    if containerd is not None:
        jobs.append(functools.partial(other, "containerd", containerd, "config", "dump"))
    at_once(*jobs)
    dump, dump_problem = others.get("containerd", ("", "no containerd"))
    named: list[str | None] = [*(one.shim for one in kata.kata_handlers(dump)), shim]  # these need to be on no PATH
    if found_by_containerd not in [program.target for program in programs.values()]:
        named.append(found_by_containerd)
    for path in named:
        if path and (kata.SHIM, path) not in programs:
            found.append((kata.SHIM, path, False))
            version(*found[-1])
    text, problem = others.get("qemu", ("", f"{qemu} was not found"))
    devices = Emulator(tuple(re.findall(r'^name "([^"]+)"', text, re.MULTILINE)), problem)
    services: tuple[str, ...] = ()
    if systemctl is not None and vendor.startswith("VMware"):
        services = _active(systemctl, transports.VMWARE_TOOLS)
    return Programs(
        tuple(programs[name, path] for name, path, _ in found), devices, None if dump_problem else dump, services
    )


def _active(systemctl: str, units: tuple[str, ...]) -> tuple[str, ...]:
    # Its exit status is that of the units: 3 as soon as one is not active.
    answer = run([systemctl, "is-active", *units], deadline=PROGRAM_SECONDS)
    return tuple(unit for unit, state in zip(units, answer.stdout.split(), strict=False) if state == "active")


def _places(name: str) -> Iterator[tuple[str, bool]]:
    """Yield each place of a program once, and whether it is found by its name."""
    known: set[str] = set()
    shipped = kata.SHIPPED if name == kata.SHIM else ()
    for directory, on_path in (
        *((directory, True) for directory in search_path().split(":")),
        *((directory, False) for directory in shipped),
    ):
        path = shutil.which(name, path=directory) if directory else None
        if path is not None and os.path.realpath(path) not in known:
            known.add(os.path.realpath(path))
            yield path, on_path
