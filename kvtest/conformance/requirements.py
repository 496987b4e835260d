# SPDX-License-Identifier: Apache-2.0
"""Requirements: numbered, testable promises."""

from __future__ import annotations

from enum import StrEnum

import attrs

from kvtest.transport import Transport


class Level(StrEnum):
    """How binding a requirement is, in the words of RFC 2119."""

    MUST = "MUST"
    MUST_NOT = "MUST NOT"
    SHOULD = "SHOULD"
    SHOULD_NOT = "SHOULD NOT"
    MAY = "MAY"

    @property
    def binding(self) -> bool:
        """Whether who violates it does not conform."""
        return self in (Level.MUST, Level.MUST_NOT)


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
