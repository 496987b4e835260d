# SPDX-License-Identifier: Apache-2.0
"""What a test asks of its guest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from attrs import evolve, fields, frozen

from kvtest.errors import UsageError, suggestion
from kvtest.settings.limits import MOST_CPUS, SMALLEST_MEMORY

_MOST_SERIAL_PORTS = 29  # virtio-serial-pci has 31 ports; 0 is a console's, 1 the control channel's
_LONGEST_PORT_NAME = 100
_PORT_NAME = re.compile(rf"[ -~]{{1,{_LONGEST_PORT_NAME}}}")
DEFAULT_SERIAL_PORTS = ("org.kvtest.serial.0", "org.kvtest.serial.1")


class Scope(StrEnum):
    """Who gets the same guest."""

    FUNCTION = "function"
    MODULE = "module"


@frozen
class GuestRequest:
    """What ``@pytest.mark.guest(...)`` takes; everything has a default.

    Args:
        scope: Who gets the same guest: each test has its own, or those of a module share one.
        fresh: A guest of the test's own whatever the scope: for tests that end or break theirs.
        cold: A guest that has booted by itself. Others are clones of one that has.
        vsock: Whether it has a vsock device; ``None`` for one if the test uses the fixture ``vsock``.
        kernel: Name of the guest kernel; the settings' if ``None``.
        image: Recipe of the root file system; the settings' if ``None``.
        memory: MiB; the settings' if ``None``.
        cpus: Virtual CPUs; the settings' if ``None``.
        serial_ports: Names of the virtio-serial ports.
        kernel_arguments: Words to add to the kernel's command line.
    """

    scope: Scope = Scope.FUNCTION
    fresh: bool = False
    cold: bool = False
    vsock: bool | None = None
    kernel: str | None = None
    image: str | None = None
    memory: int | None = None
    cpus: int | None = None
    serial_ports: tuple[str, ...] = DEFAULT_SERIAL_PORTS
    kernel_arguments: tuple[str, ...] = ()

    def updated(self, values: Mapping[str, Any]) -> GuestRequest:
        """Return the request with ``values`` in place of its own.

        Raises:
            UsageError: A name is not one of a request.
        """
        names = [field.name for field in fields(GuestRequest)]
        for name in values:
            if name not in names:
                raise UsageError(f"a guest has no {name!r}", hint=suggestion(name, names))
        lists: dict[str, Any] = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        if "scope" in values:
            if values["scope"] not in list(Scope):
                raise UsageError(f"a guest has no scope {values['scope']!r}", hint=f"known: {', '.join(Scope)}")
            lists["scope"] = Scope(values["scope"])
        changed = evolve(self, **{**values, **lists})
        for problem in changed._problems():
            raise UsageError(f"a guest cannot have {problem}")
        return changed

    def _problems(self) -> Iterator[str]:
        """Yield what is wrong, as the end of a sentence."""
        for name in ("fresh", "cold", "vsock"):
            value = getattr(self, name)
            if not isinstance(value, bool) and (name != "vsock" or value is not None):
                yield f"{name}={value!r}: it is True or False"
        for name, least, most in (("memory", SMALLEST_MEMORY, None), ("cpus", 1, MOST_CPUS)):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                yield f"{name}={value!r}: it is a number of at least {least}"
            elif most is not None and value > most:
                yield f"{name}={value!r}: it is a number of at most {most}"
        for name in ("serial_ports", "kernel_arguments"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(word, str) and word for word in value):
                yield f"{name}={value!r}: it is a list of strings"
            elif len(set(value)) != len(value) and name == "serial_ports":
                yield f"{name}={value!r}: each port has a name of its own"
            elif name == "serial_ports" and not all(_PORT_NAME.fullmatch(word) for word in value):
                yield f"{name}={value!r}: a name of a port is up to {_LONGEST_PORT_NAME} printable ASCII characters"
        if len(self.serial_ports) > _MOST_SERIAL_PORTS:
            yield f"{len(self.serial_ports)} serial ports: there is room for {_MOST_SERIAL_PORTS}"
        for name in ("kernel", "image"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                yield f"{name}={value!r}: it is a name"
