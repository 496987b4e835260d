# SPDX-License-Identifier: Apache-2.0
"""Figures: measured values, as their median, with the target that it has to keep."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import frozen

from kvtest.harness import GuestFactory
from kvtest.settings import Settings

Figure = dict[str, object]
Figures = Iterator[tuple[str, Figure]]


@frozen
class Bench:
    """What measuring needs.

    Args:
        settings: The settings.
        factory: Makes guests.
    """

    settings: Settings
    factory: GuestFactory


def figure(values: list[float], unit: str, target: float | None = None, *, at_least: bool = False) -> Figure:
    """Return measured values as their median, with the target that it has to keep."""
    median = statistics.median(values)
    result: Figure = {"median": round(median, 4), "min": round(min(values), 4), "max": round(max(values), 4)}
    result |= {"unit": unit, "samples": len(values)}
    if target is not None:
        met = median >= target if at_least else median <= target
        result |= {"target": target, "target_is": "at least" if at_least else "at most", "met": met}
    return result


def tail(values: list[float], unit: str, target: float) -> Figure:
    """Return the 99th percentile of measured values, with the target that it has to keep."""
    return figure([percentile(values, 99)], unit, target) | {"samples": len(values)}


def unavailable(reason: str) -> Figure:
    """Return what stands for a figure that cannot be measured here."""
    return {"unavailable": reason}


def percentile(values: list[float], rank: int) -> float:
    """Return the value below which ``rank`` per cent of values are."""
    return statistics.quantiles(values, n=100, method="inclusive")[rank - 1]


def seconds(work: Callable[[], object]) -> float:
    """Return how long ``work`` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def lines(path: str | Path) -> list[str]:
    """Return the lines of a file."""
    return Path(path).read_text().splitlines()
