# SPDX-License-Identifier: Apache-2.0
"""Many pods, made and destroyed one after another: nothing adds up, on the host or with whoever drives the shims."""

from __future__ import annotations

import gc
import os

import pytest

from kvtest import Driver, Pods, RuntimeUnderTest, requirement
from kvtest.census import Ledger
from kvtest.runtime.footprint import Footprint

PATIENCE = 10.0
WARM_UP = 5  # pods until everything is there that is made once
MIB = 1 << 20

# What may be more at the end than after the first pods: descriptors, and bytes. We close what we have opened at once;
# a containerd does so when its garbage collector comes by, which also lets its heap breathe by some MiB.
SLACK = {"kvtest": (0, 2 * MIB), "containerd": (4, 8 * MIB)}

pytestmark = [pytest.mark.capability("runtime"), pytest.mark.measurement]


def footprints(runtime: RuntimeUnderTest, driver: Driver) -> dict[str, Footprint]:
    """Return what those have who live longer than a pod."""
    gc.collect()
    found = {"kvtest": Footprint.of(os.getpid())}
    if driver is Driver.CONTAINERD:
        found["containerd"] = Footprint.of(runtime.containerd.pid)
    return found


@requirement("RUNTIME-REPEAT-001")
def test_nothing_adds_up(pods: Pods, runtime: RuntimeUnderTest, driver: Driver, census: Ledger) -> None:
    before: dict[str, Footprint] = {}
    for number in range(runtime.pods_in_a_row):
        if number == WARM_UP:
            before = footprints(runtime, driver)
        pod = pods.start()
        container = pod.run(["sh", "-c", "exit 3"])
        assert container.wait(PATIENCE).status == 3
        container.delete()
        pod.end(PATIENCE)
        census.assert_clean(within=pod.profile.cleanup_bound)
        pods.close()
    for name, after in footprints(runtime, driver).items():
        descriptors, memory = SLACK[name]
        more = after.descriptors - before[name].descriptors
        assert more <= descriptors, f"{name} has {more} descriptors more than after the first pods"
        grown = after.memory - before[name].memory
        assert grown <= memory, f"{name} has {grown / MIB:.1f} MiB more than after the first pods"
