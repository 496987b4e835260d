# SPDX-License-Identifier: Apache-2.0
"""Names that change with what they name."""

from __future__ import annotations

import hashlib
from typing import Any

import attrs


def fingerprint(*parts: Any) -> str:
    """Return a short digest of values that are made of attrs classes, containers, strings and numbers."""
    return hashlib.sha256(repr([_plain(part) for part in parts]).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        return [type(value).__name__, *(_plain(item) for item in attrs.astuple(value, recurse=False))]
    if isinstance(value, dict):
        return [[key, _plain(item)] for key, item in sorted(value.items())]
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else str(value)
