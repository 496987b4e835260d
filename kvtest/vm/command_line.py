# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line from typed parts.

Each part is one option with its properties; parts that belong together form a group, so that what is written into the
artifacts can be read, and pasted into a shell.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import Factory, frozen

Value = str | int | bool | Path


@frozen
class Option:
    """One option of QEMU with its argument.

    Args:
        flag: Its name without the dash, such as ``device``.
        kind: The first, unnamed property, such as ``virtio-serial-pci``; empty where there is none.
        properties: The named properties. Booleans become ``on`` and ``off``.
    """

    flag: str
    kind: str = ""
    properties: Mapping[str, Value] = Factory(dict)

    @property
    def argument(self) -> str:
        """The argument as QEMU reads it; commas inside values are doubled (qemu(1), "Device options")."""
        named = [f"{name.replace('_', '-')}={_text(value)}" for name, value in self.properties.items()]
        return ",".join(([_escape(self.kind)] if self.kind else []) + named)

    def arguments(self) -> Iterator[str]:
        """Yield the option as words of a command line."""
        yield f"-{self.flag}"
        if argument := self.argument:
            yield argument


def option(flag: str, kind: str = "", **properties: Value) -> Option:
    """Return an :class:`Option`; underscores in property names become dashes."""
    return Option(flag, kind, properties)


def raw(flag: str, argument: str | Path) -> Option:
    """Return an option whose argument QEMU does not split at commas, such as ``-append`` or ``-kernel``."""
    return _RawOption(flag, str(argument))


@frozen
class _RawOption(Option):
    @property
    def argument(self) -> str:
        return self.kind


@frozen
class Group:
    """Options that belong together.

    Args:
        title: What they are for.
        options: The options, in order.
    """

    title: str
    options: tuple[Option, ...]


@frozen
class CommandLine:
    """A whole command.

    Args:
        program: Path of the QEMU binary.
        groups: Its options.
    """

    program: str
    groups: tuple[Group, ...]

    @property
    def words(self) -> list[str]:
        """The command as a list for ``execve``."""
        return [self.program, *(word for g in self.groups for o in g.options for word in o.arguments())]

    def script(self) -> str:
        """Return the command as a shell script, one option a line, grouped, that can be pasted."""
        words = [shlex.quote(self.program)]
        for group in self.groups:
            words += [shlex.join(o.arguments()) for o in group.options]
        titles = "".join(f"#   {g.title}: {', '.join(o.kind or o.flag for o in g.options)}\n" for g in self.groups)
        return f"#!/bin/sh\n{titles}exec " + " \\\n  ".join(words) + "\n"


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return _escape(str(value))


def _escape(text: str) -> str:
    return text.replace(",", ",,")
