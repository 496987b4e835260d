# SPDX-License-Identifier: Apache-2.0
"""The rings: how long people wait for them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.figures import Bench, Figure, Figures, figure, seconds, unavailable
from benchmarks.plugin import run_kvtest

#: Of each figure, the arguments of ``kvtest run``, and the seconds that it may take.
RUNS: dict[str, tuple[tuple[str, ...], float]] = {
    "ring_agent": (("agent",), 60),
    "ring_runtime_runc": (("runtime", "--runtime", "runc"), 60),
    "all_rings_reference": (("--runtime", "reference", "-n", "2"), 240),
}


def ring_figures(bench: Bench) -> Figures:
    """Yield what runs of whole rings take, everything that is cached being there."""
    for name, (arguments, target) in RUNS.items():
        yield name, _figure(bench, arguments, target)


def _figure(bench: Bench, arguments: tuple[str, ...], target: float) -> Figure:
    if "--runtime" in arguments and os.geteuid() != 0:
        return unavailable("not root: run it with sudo")
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        work = seconds(lambda: run_kvtest(bench, Path(directory), *arguments))
    return figure([work], "s", target)
