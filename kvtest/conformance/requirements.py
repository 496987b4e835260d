# SPDX-License-Identifier: Apache-2.0
"""Requirements: numbered, testable promises, read from directories of TOML files.

``suites/requirements/README.md`` describes the format.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import attrs

from kvtest.errors import UnknownNameError, UsageError, suggestion
from kvtest.transport import Transport
from kvtest.typed import structure

_ID = re.compile(r"[A-Z][A-Z0-9]*-[A-Z][A-Z0-9]*-[0-9]{3}")
_TABLES = ("document", "requirement")


class Level(StrEnum):
    """How binding a requirement is, in the words of RFC 2119."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Ring(StrEnum):
    """What is under test, from the inside out."""

    TRANSPORT = "transport"
    AGENT = "agent"
    RUNTIME = "runtime"


@attrs.frozen
class Document:
    """A document that makes promises.

    Args:
        title: Its name and edition.
        url: Where it can be read.
    """

    title: str
    url: str


@attrs.frozen
class Source:
    """The place that a requirement comes from.

    Args:
        document: The document.
        section: The section as the document names it.
    """

    document: Document
    section: str

    def __str__(self) -> str:
        return f"{self.document.title}, {self.section}"


@attrs.frozen
class Requirement:
    """One promise that tests can find broken.

    Args:
        id: ``AREA-TOPIC-NNN``; it never changes its meaning and is never used again.
        level: How binding it is.
        statement: The promise, in one sentence.
        sources: Where it comes from, the most authoritative first.
        rings: The rings that it holds for.
        transports: The transports that it is about; empty where it is about none in particular.
    """

    id: str
    level: Level
    statement: str
    sources: tuple[Source, ...]
    rings: tuple[Ring, ...]
    transports: tuple[Transport, ...]

    def __str__(self) -> str:
        return f"{self.id} ({self.level}): {self.statement}"


class Catalogue:
    """Requirements by ID, in the order of their files.

    Args:
        requirements: The requirements; an ID appears once.
    """

    def __init__(self, requirements: Mapping[str, Requirement]) -> None:
        self._requirements = dict(requirements)

    @classmethod
    def load(cls, *directories: Path) -> Catalogue:
        """Return the requirements of every ``*.toml`` file in the directories.

        Args:
            directories: Where to look, not below; a vendor's own go beside those of kvtest.

        Raises:
            UsageError: A directory or file cannot be read, or holds something wrong: an unknown key, a missing one, a
                bad or repeated ID, a source in a document that is not described.
        """
        found: dict[str, Requirement] = {}
        files: dict[str, Path] = {}
        for directory in directories:
            for file in _toml_files(directory):
                for requirement in _read(file):
                    name = requirement.id
                    if name in found:
                        raise UsageError(
                            f"{file}: the requirement {name} is already in {files[name]}",
                            hint="give one of them the next free number",
                        )
                    found[name], files[name] = requirement, file
        return cls(found)

    def __getitem__(self, name: str) -> Requirement:
        """Return the requirement of that ID.

        Raises:
            UnknownNameError: There is none; the nearest ID is suggested.
        """
        try:
            return self._requirements[name]
        except KeyError:
            raise UnknownNameError("requirement", name, self._requirements) from None

    def __contains__(self, name: object) -> bool:
        return name in self._requirements

    def __iter__(self) -> Iterator[Requirement]:
        return iter(self._requirements.values())

    def __len__(self) -> int:
        return len(self._requirements)


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
    rings: tuple[Ring, ...]
    transports: tuple[Transport, ...] = ()


def _toml_files(directory: Path) -> list[Path]:
    try:
        return sorted(file for file in directory.iterdir() if file.suffix == ".toml")
    except OSError as error:
        raise UsageError(f"cannot read the directory of requirements {directory}: {error.strerror}") from error


def _read(file: Path) -> Iterator[Requirement]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:  # both of tomllib and of the UTF-8 decoder
        raise UsageError(f"{file} is not valid TOML: {error}") from error
    for key in table:
        if key not in _TABLES:
            raise UsageError(f"{file}: unknown key {key!r}", hint=suggestion(key, _TABLES))
    documents = table.get("document", {})
    entries = table.get("requirement", [])
    if not isinstance(documents, Mapping):
        raise UsageError(f"{file}: 'document' is not a table of tables", hint="describe each under [document.KEY]")
    if not isinstance(entries, list):
        raise UsageError(f"{file}: 'requirement' is not a list of tables", hint="start each with [[requirement]]")
    described = {
        key: structure(Document, document, where=f"{file}: document {key}") for key, document in documents.items()
    }
    for number, entry in enumerate(entries, start=1):
        yield _requirement(file, number, entry, described)


def _requirement(file: Path, number: int, table: Any, documents: Mapping[str, Document]) -> Requirement:
    name = table.get("id") if isinstance(table, Mapping) else None
    where = f"{file}: requirement {name if isinstance(name, str) else f'number {number}'}"
    if not isinstance(table, Mapping):
        raise UsageError(f"{where} is not a table", hint="start each with [[requirement]]")
    entry = structure(_Entry, table, where=where)
    if not _ID.fullmatch(entry.id):
        raise UsageError(
            f"{where}: the ID is not of the form AREA-TOPIC-NNN",
            hint="two words in capital letters and digits, and a number of three digits, such as VSOCK-CLOSE-001",
        )
    if not entry.statement.endswith(".") or "\n" in entry.statement.strip():
        raise UsageError(f"{where}: the statement is not one sentence on one line that ends with a full stop")
    if not entry.source or not entry.rings:
        missing = "source" if not entry.source else "rings"
        raise UsageError(f"{where}: {missing!r} is empty", hint="every requirement has at least one")
    for source in entry.source:
        if source.document not in documents:
            raise UsageError(
                f"{where}: the document {source.document!r} is not described in this file",
                hint=suggestion(source.document, documents),
            )
    sources = tuple(Source(documents[source.document], source.section) for source in entry.source)
    return Requirement(entry.id, entry.level, entry.statement, sources, entry.rings, entry.transports)
