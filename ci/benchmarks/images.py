# SPDX-License-Identifier: Apache-2.0
"""Building a guest image, and finding it again."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.figures import Bench, Figures, figure, seconds
from kvtest.image import ImageCache

LOOKUPS = 30


def image_figures(bench: Bench) -> Figures:
    """Yield a cold build and warm look-ups, in a cache of their own."""
    kernel = bench.settings.kernel
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        cache = ImageCache(Path(directory), bench.settings.mirror)
        yield "image_cold_build", figure([seconds(lambda: cache.ensure(kernel))], "s", 25)
        lookups = [seconds(lambda: cache.ensure(kernel)) * 1000 for _ in range(LOOKUPS)]
        yield "image_warm_lookup", figure(lookups, "ms", 50)
