# SPDX-License-Identifier: Apache-2.0
"""Lab hosts: how fast one is built, is ready, and has run a first test over its kernel's vhost-vsock."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import attrs

from benchmarks.figures import Bench, Figures, figure, seconds
from kvtest.conformance import Ring
from kvtest.host.lab import Lab
from kvtest.image import ImageCache
from kvtest.report import Results
from kvtest.report.directory import RESULTS_FILE

READY = 10
FIRST = 3
TEST = "suites/transport/test_vsock_directions.py::test_the_host_connects_to_the_guest"
MANY = ["transport", "suites/agent/test_life_cycle.py"]


def _passed(status: int) -> None:
    if status != 0:
        raise RuntimeError(f"a run in a lab host ended with status {status}")


def lab_figures(bench: Bench) -> Figures:
    """Yield what a lab host takes."""
    settings = bench.settings
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as cache:
        images = ImageCache(Path(cache), settings.mirror)
        cold = seconds(lambda: images.ensure(settings.kernel, settings.lab_image))
        yield "lab_image_cold_build", figure([cold], "s", 90)
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        mine = attrs.evolve(settings, results=Path(directory))
        Lab("lab", mine, None, Path(directory) / "0").close()  # everything that is cached
        ready, first = [], []
        for number in range(1, READY + 1):
            begin = time.perf_counter()
            with Lab("lab", mine, None, Path(directory) / str(number)) as lab:
                ready.append(time.perf_counter() - begin)
                if number <= FIRST:
                    _passed(lab.run([TEST], [], lambda _said: None))
                    first.append(time.perf_counter() - begin)
        with Lab("lab", mine, None, Path(directory) / "many", rings=[Ring.TRANSPORT, Ring.AGENT]) as lab:
            took = seconds(lambda: _passed(lab.run(MANY, [], lambda _said: None)))
        items = len(Results.read(Path(directory) / RESULTS_FILE).tests)
        yield "lab_items_over_vhost_vsock", figure([items], "tests", 40, at_least=True)
        yield "lab_items_took", figure([took], "s", 360)
        yield "lab_ready", figure(ready, "s", 1)
        yield "lab_first_test_over_vhost_vsock", figure(first, "s", 30)
