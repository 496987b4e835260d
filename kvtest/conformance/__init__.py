# SPDX-License-Identifier: Apache-2.0
"""What is promised: numbered requirements with their sources."""

from __future__ import annotations

import functools

from kvtest.conformance.requirements import Catalogue, Document, Level, Requirement, Ring, Source
from kvtest.resources import suites_directory

__all__ = ["Catalogue", "Document", "Level", "Requirement", "Ring", "Source", "shipped"]


@functools.cache
def shipped() -> Catalogue:
    """Return the requirements of the shipped suites."""
    return Catalogue.load(suites_directory() / "requirements")
