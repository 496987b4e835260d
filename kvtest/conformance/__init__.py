# SPDX-License-Identifier: Apache-2.0
"""What is promised: numbered requirements with their sources; and, from what tests say, what of it is kept."""

from __future__ import annotations

import functools
from pathlib import Path

from kvtest.conformance.catalogue import Catalogue
from kvtest.conformance.coverage import Plan, PlannedTest
from kvtest.conformance.requirements import Document, Level, Requirement, Ring, Source
from kvtest.conformance.verdict import Answer, Evidence, Status, Verdict, judge
from kvtest.resources import suites_directory

__all__ = [
    # What is promised
    "Catalogue",
    "Document",
    "Level",
    "Requirement",
    "Ring",
    "Source",
    "shipped",
    "with_others",
    # What a run means to check of it
    "Plan",
    "PlannedTest",
    # What came out
    "Answer",
    "Evidence",
    "Status",
    "Verdict",
    "judge",
]


def shipped() -> Catalogue:
    """Return the requirements of the shipped suites."""
    return with_others()


@functools.cache
def with_others(*directories: Path) -> Catalogue:
    """Return the requirements of the shipped suites and of other directories.

    Args:
        directories: Directories of TOML files.

    Raises:
        UsageError: Something in them is wrong; see :meth:`Catalogue.load`.
    """
    return Catalogue.load(suites_directory() / "requirements", *directories)
