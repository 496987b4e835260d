# SPDX-License-Identifier: Apache-2.0
"""Comparing large values: a failure says where they begin to differ.

pytest looks for the smallest difference between two values that ``assert`` found to be unequal. For some hundred
kilobytes of a stream that takes minutes, and where it believes to run in CI it shows every line of it.
"""

from __future__ import annotations

import reprlib
from typing import Any

_AROUND = 24  # characters or bytes before and after the first that differs

_short = reprlib.Repr()
_short.maxother = _short.maxstring = 60


def assert_equal(seen: object, expected: object) -> None:
    """Fail, unless two values are equal.

    Args:
        seen: What there is.
        expected: What there should be.

    Raises:
        AssertionError: They differ; the message says where they begin to.
    """
    __tracebackhide__ = True
    if seen != expected:
        raise AssertionError("\n".join(["not what was expected:", *_first_difference(seen, expected, "")]))


def _first_difference(seen: Any, expected: Any, place: str) -> list[str]:
    """Say where two values that are not equal begin to differ; ``place`` is the subscripts that lead to them."""
    here = f"at {place}: " if place else ""
    both = (seen, expected)
    if all(isinstance(value, list | tuple) for value in both):
        for index, (one, other) in enumerate(zip(seen, expected, strict=False)):
            if one != other:
                return _first_difference(one, other, f"{place}[{index}]")
        longer, which = (seen, "surplus") if len(seen) > len(expected) else (expected, "missing")
        common = min(len(seen), len(expected))
        return [
            f"{here}{len(seen)} items, expected {len(expected)}, the first {common} equal",
            f"  {which}: {_short.repr(longer[common])}",
        ]
    if all(isinstance(value, str) for value in both) or all(isinstance(value, bytes) for value in both):
        unit = "characters" if isinstance(seen, str) else "bytes"
        offset = _common_prefix(seen, expected)
        around = slice(max(0, offset - _AROUND), offset + _AROUND)
        return [
            f"{here}{len(seen)} {unit}, expected {len(expected)}, the first {offset} equal; there",
            f"  seen:     {seen[around]!r}",
            f"  expected: {expected[around]!r}",
        ]
    return [f"{here}{_short.repr(seen)}, expected {_short.repr(expected)}"]


def _common_prefix(one: Any, other: Any) -> int:
    """Return how many elements are equal at the beginning of two strings, by halving: comparing slices is quick."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
