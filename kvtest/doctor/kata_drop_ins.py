# SPDX-License-Identifier: Apache-2.0
"""Kata Containers' drop-in files: what is in ``config.d`` beside the configuration file goes over it.

Both runtimes follow links to the configuration file first, then take every file of the directory, whatever it is
called, in the order of the names, and merge tables key by key; a file that cannot be used keeps the runtime from
starting (``src/runtime/README.md``, "Drop-in configuration file fragments"; ``decodeDropIns`` of the Go runtime;
``drop_in.rs`` of runtime-rs).
"""

from __future__ import annotations

import posixpath
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import field, frozen

from kvtest.doctor.system import System

DIRECTORY = "config.d"
OLDEST = (2, 5)  # kata-containers issue 4108, of April 2022; runtime-rs has had them since 3.0, its first version


@frozen
class Fragment:
    """A drop-in file.

    Args:
        path: Where it is.
        table: What it says; nothing if it cannot be used.
        problem: Why it cannot.
    """

    path: str
    table: Mapping[str, Any] = field(factory=dict)
    problem: str | None = None

    @property
    def name(self) -> str:
        """What it is called below the directory of the configuration file."""
        return f"{DIRECTORY}/{posixpath.basename(self.path)}"


def directory(path: str) -> str:
    """Return where the drop-in files of a configuration file are, links to which were followed."""
    return posixpath.join(posixpath.dirname(path), DIRECTORY)


def fragments(system: System, path: str) -> tuple[Fragment, ...]:
    """Return the drop-in files of a configuration file, in their order."""
    base = directory(system.links.get(path, path))
    paths = [one for one in {**system.files, **system.unseen} if posixpath.dirname(one) == base]
    found = [_fragment(system, one) for one in sorted(paths, key=lambda one: posixpath.basename(one).encode())]
    if base in system.unseen:
        found.append(Fragment(base, problem=system.unseen[base]))
    return tuple(found)


def _fragment(system: System, path: str) -> Fragment:
    if path not in system.files:
        return Fragment(path, problem=system.unseen[path])
    try:
        return Fragment(path, tomllib.loads(system.files[path]))
    except tomllib.TOMLDecodeError as error:
        return Fragment(path, problem=f"no TOML: {error}")


@frozen
class Values:
    """The values in force.

    Args:
        base: The configuration file.
        table: What it says, with the drop-in files over it.
        origins: The drop-in file that a value is from, by its keys from the outermost.
    """

    base: str
    table: Mapping[str, Any]
    origins: Mapping[tuple[str, ...], Fragment] = field(factory=dict)

    @classmethod
    def of(cls, base: str, table: Mapping[str, Any], over: tuple[Fragment, ...]) -> Values:
        """Merge a configuration and its drop-in files, the last of which wins."""
        origins: dict[tuple[str, ...], Fragment] = {}
        for fragment in over:
            table = _merged(table, fragment.table)
            origins.update((keys, fragment) for keys in _leaves(fragment.table))
        return cls(base, table, origins)

    def section(self, *keys: str) -> Mapping[str, Any]:
        """Return a table; an empty one if there is none of that name."""
        found: Any = self.table
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def file(self, *keys: str) -> str:
        """Return the file that a value is from, or belongs into."""
        return self.origins[keys].path if keys in self.origins else self.base

    def told(self, *keys: str) -> str:
        """Return the name of the drop-in file that a value is from, in parentheses; nothing if it is from none."""
        return f" ({self.origins[keys].name})" if keys in self.origins else ""


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Mapping[str, Any]:
    result = dict(below)
    for key, value in above.items():
        other = below.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            result[key] = _merged(other, value)
        else:
            result[key] = value
    return result


def _leaves(table: Mapping[str, Any], keys: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*keys, key))
        else:
            yield (*keys, key)
