# SPDX-License-Identifier: Apache-2.0
"""The machine that figures come from."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from benchmarks.figures import Bench, lines


def machine(bench: Bench) -> dict[str, object]:
    """Return what tells this machine, and what ran on it, from others."""
    models = [line.split(":")[1].strip() for line in lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": next(iter(models), ""),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": platform.release(),
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
        "qemu": bench.factory.qemu.version,
        "accelerator": bench.factory.accelerator.accelerator.value,
        "guest_kernel": bench.factory.image().release,
        "bench": _digest(),
    }


def _digest() -> str:
    """Return what changes when the benchmarks do."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
