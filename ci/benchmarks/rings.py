# SPDX-License-Identifier: Apache-2.0
"""The rings: how long people wait for them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.figures import Bench, Figure, Figures, figure, seconds, unavailable
from benchmarks.plugin import run_kvtest

_RUNC = ("runtime", "--runtime", "runc")
#: Of each figure, the arguments of ``kvtest run``, and the seconds that it may take.
RUNS: dict[str, tuple[tuple[str, ...], float]] = {
    "ring_agent": (("agent",), 60),
    "ring_runtime_runc": (_RUNC, 60),
    "all_rings_reference": (("--runtime", "reference", "-n", "2"), 240),
}

# A test of each image and template that they use.
_MAKING: tuple[tuple[str, ...], ...] = (
    ("transport", "-k", "test_the_host_connects"),
    ("agent", "-k", "test_a_healthy_agent"),
    ("runtime", "--runtime", "reference", "-k", "test_each_step_leads_to_its_state"),
)


def ring_figures(bench: Bench) -> Figures:
    """Yield what runs of whole rings take, everything that is cached being there."""
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        for arguments in _MAKING:
            if _can_run(arguments):
                run_kvtest(bench, Path(directory), *arguments)
    for name, (arguments, target) in RUNS.items():
        yield name, _figure(bench, arguments, target)


def _figure(bench: Bench, arguments: tuple[str, ...], target: float) -> Figure:
    if not _can_run(arguments):
        return unavailable("not root: run it with sudo")
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        work = seconds(lambda: run_kvtest(bench, Path(directory), *arguments, violations=arguments == _RUNC))
    return figure([work], "s", target)


def _can_run(arguments: tuple[str, ...]) -> bool:
    return "--runtime" not in arguments or os.geteuid() == 0
