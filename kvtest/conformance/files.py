# SPDX-License-Identifier: Apache-2.0
"""A file of requirements; ``suites/requirements/README.md`` describes the format."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from kvtest.conformance.requirements import Document, Level, Requirement, Ring, Source
from kvtest.errors import UsageError, suggestion
from kvtest.transport import Transport
from kvtest.typed import structure

_AREA = re.compile(r"[A-Z][A-Z0-9]*")
_ID = re.compile(r"[A-Z][A-Z0-9]*-[A-Z][A-Z0-9]*-[0-9]{3}")
_ID_HINT = "two words in capital letters and digits, and a number of three digits, such as VSOCK-CLOSE-001"
_TABLES = ("document", "area", "requirement", "retired")


@attrs.frozen
class Content:
    """What a file holds.

    Args:
        requirements: Its requirements, in its order.
        retired: IDs that are not to be used again, and why.
    """

    requirements: tuple[Requirement, ...]
    retired: Mapping[str, str]


@attrs.frozen
class _Area:
    """What holds for the requirements whose IDs begin with one word, where they say nothing else."""

    rings: tuple[Ring, ...] = ()
    transports: tuple[Transport, ...] = ()


@attrs.frozen
class _SourceEntry:
    """A source as a file has it: the document by its key."""

    document: str
    section: str


@attrs.frozen
class _Entry:
    """A requirement as a file has it."""

    id: str
    level: Level
    statement: str
    source: tuple[_SourceEntry, ...]
    rings: tuple[Ring, ...] | None = None
    transports: tuple[Transport, ...] | None = None


def read(file: Path) -> Content:
    """Return what a file holds.

    Args:
        file: The file.

    Raises:
        UsageError: It cannot be read, or something in it is wrong.
    """
    table = _table(file)
    documents = {
        key: structure(Document, document, where=f"{file}: document {key}")
        for key, document in _mapping(file, table, "document", "describe each under [document.KEY]").items()
    }
    areas = {
        key: structure(_Area, area, where=f"{file}: area {key}")
        for key, area in _mapping(file, table, "area", "describe each under [area.WORD]").items()
    }
    entries = table.get("requirement", [])
    if not isinstance(entries, list):
        raise UsageError(f"{file}: 'requirement' is not a list of tables", hint="start each with [[requirement]]")
    requirements = tuple(
        _requirement(file, number, entry, documents, areas) for number, entry in enumerate(entries, start=1)
    )
    used = {_area_of(requirement.id) for requirement in requirements}
    for key in areas:
        if key not in used:
            raise UsageError(
                f"{file}: area {key}: no requirement of this file begins with that word", hint=suggestion(key, used)
            )
    return Content(requirements, _retired(file, table))


def _table(file: Path) -> Mapping[str, Any]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:  # both of tomllib and of the UTF-8 decoder
        raise UsageError(f"{file} is not valid TOML: {error}") from error
    for key in table:
        if key not in _TABLES:
            raise UsageError(f"{file}: unknown key {key!r}", hint=suggestion(key, _TABLES))
    return table


def _mapping(file: Path, table: Mapping[str, Any], key: str, hint: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, Mapping):
        raise UsageError(f"{file}: {key!r} is not a table of tables", hint=hint)
    return value


def _requirement(
    file: Path, number: int, table: Any, documents: Mapping[str, Document], areas: Mapping[str, _Area]
) -> Requirement:
    name = table.get("id") if isinstance(table, Mapping) else None
    where = f"{file}: requirement {name if isinstance(name, str) else f'number {number}'}"
    if not isinstance(table, Mapping):
        raise UsageError(f"{where} is not a table", hint="start each with [[requirement]]")
    entry = structure(_Entry, table, where=where)
    if not _ID.fullmatch(entry.id):
        raise UsageError(f"{where}: the ID is not of the form AREA-TOPIC-NNN", hint=_ID_HINT)
    if not entry.statement.endswith(".") or "\n" in entry.statement.strip():
        raise UsageError(f"{where}: the statement is not one sentence on one line that ends with a full stop")
    area = areas.get(_area_of(entry.id), _Area())
    rings = area.rings if entry.rings is None else entry.rings
    transports = area.transports if entry.transports is None else entry.transports
    if not entry.source or not rings:
        missing = "source" if not entry.source else "rings"
        raise UsageError(
            f"{where}: {missing!r} is empty",
            hint="every requirement has at least one" + (", its own or its area's" if missing == "rings" else ""),
        )
    for source in entry.source:
        if source.document not in documents:
            raise UsageError(
                f"{where}: the document {source.document!r} is not described in this file",
                hint=suggestion(source.document, documents),
            )
    sources = tuple(Source(documents[source.document], source.section) for source in entry.source)
    return Requirement(entry.id, entry.level, entry.statement, sources, rings, transports)


def _retired(file: Path, table: Mapping[str, Any]) -> Mapping[str, str]:
    retired = _mapping(file, table, "retired", 'write a line ID = "why it was given up" under [retired]')
    for name, reason in retired.items():
        if not _ID.fullmatch(name):
            raise UsageError(f"{file}: retired {name}: the ID is not of the form AREA-TOPIC-NNN", hint=_ID_HINT)
        if not isinstance(reason, str) or not reason.strip() or "\n" in reason:
            raise UsageError(f"{file}: retired {name}: it has no reason, in one line of text")
    return retired


def _area_of(identifier: str) -> str:
    match = _AREA.match(identifier)
    return match[0] if match else identifier
