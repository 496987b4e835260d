# SPDX-License-Identifier: Apache-2.0
"""Measures what issues set goals for, and prints JSON: every figure with its target."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.comparison import comparison_figures
from benchmarks.figures import Bench, Figure, Figures
from benchmarks.guests import boot_figures, clone_figures
from benchmarks.images import image_figures
from benchmarks.lab import lab_figures
from benchmarks.machine import machine
from benchmarks.plugin import collection_figures, fixture_figures, many_figures, run_figures
from benchmarks.rings import ring_figures
from benchmarks.runtime import runtime_figures
from benchmarks.vsock import vsock_figures
from kvtest.harness import GuestFactory
from kvtest.settings import load

GROUPS: dict[str, Callable[[Bench], Figures]] = {
    "image": image_figures,
    "collection": collection_figures,
    "run": run_figures,
    "boot": boot_figures,
    "clone": clone_figures,
    "fixture": fixture_figures,
    "many": many_figures,
    "vsock": vsock_figures,
    "runtime": runtime_figures,
    "rings": ring_figures,
    "lab": lab_figures,
    "virtme-ng": comparison_figures,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="ci/bench", description=__doc__)
    parser.add_argument("--kernel", default="6.12", help="guest kernel")
    parser.add_argument("--only", choices=GROUPS, action="append", help="only this group; can be repeated")
    options = parser.parse_args()
    settings = load({"guest_kernel": options.kernel}, os.environ, {}, Path.cwd()).settings
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        bench = Bench(settings, GuestFactory(settings, Path(directory)))
        bench.factory.prepare()
        measured_on = machine(bench)
        for group in options.only or GROUPS:
            for name, result in GROUPS[group](bench):
                print(f"{name}: {_in_short(result)}", file=sys.stderr)
                figures[name] = result
    print(json.dumps({"machine": measured_on, "figures": figures}, indent=2))


def _in_short(result: Figure) -> str:
    if "unavailable" in result:
        return f"cannot be measured: {result['unavailable']}"
    target = f" ({result['target_is']} {result['target']})" if "target" in result else ""
    return f"{result['median']} {result['unit']}{target}"
