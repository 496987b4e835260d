# SPDX-License-Identifier: Apache-2.0
"""Container runtimes: how fast a pod of the reference runtime runs, and what driving a shim adds to its own work."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from benchmarks.bare import BareShim
from benchmarks.figures import Bench, Figures, figure, seconds, unavailable
from kvtest.census import Ledger, Marks
from kvtest.errors import HostError
from kvtest.runtime import Driver, Pods, RuntimeUnderTest
from kvtest.runtime.installation import find
from kvtest.runtime.reference import preparation

LIVES = 60
PODS = 40
_WARM_UP = 3
_PATIENCE = 30.0


def runtime_figures(bench: Bench) -> Figures:
    """Yield what runtimes take."""
    if os.geteuid() != 0:
        yield "runtimes", unavailable("not root: run it with sudo")
        return
    try:
        yield from _life_cycle_figures(bench)
    except HostError as error:
        yield "runc_life_cycle", unavailable(error.message)
    try:
        yield from _reference_figures(bench)
    except HostError as error:
        yield "reference_create_to_running", unavailable(error.message)


def _life_cycle_figures(bench: Bench) -> Figures:
    """Yield a life cycle of runc by the fewest calls that do it, by ours, and the difference, measured in turns."""
    bare, driven, guarded, added = [], [], [], []
    with _runtime(bench, "runc") as runtime, tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        for number in range(_WARM_UP + LIVES):
            shim = BareShim(
                runtime.installation, Path(directory) / str(number), runtime.rootfs, f"kvtest-bench-{number}"
            )
            if number % 2:  # whatever comes second may be faster or slower for that alone
                without = seconds(shim.live) * 1000
                by_pod, in_all = _life(runtime)
            else:
                by_pod, in_all = _life(runtime)
                without = seconds(shim.live) * 1000
            bare.append(without)
            driven.append(by_pod)
            guarded.append(in_all)
            added.append(by_pod - without)
    yield "runc_life_cycle_bare", figure(bare[_WARM_UP:], "ms")
    yield "runc_life_cycle", figure(driven[_WARM_UP:], "ms")
    yield "runc_life_cycle_with_census", figure(guarded[_WARM_UP:], "ms")
    yield "harness_per_life_cycle", figure(added[_WARM_UP:], "ms", 10)


def _life(runtime: RuntimeUnderTest) -> tuple[float, float]:
    """Return the milliseconds of a pod's life, and those with what is done around it to see that nothing is left."""
    pods = Pods(runtime, Driver.DIRECT)
    first = time.perf_counter()
    pod = pods.prepare()
    begin = time.perf_counter()
    pod.open(_PATIENCE)
    container = pod.run(["true"])
    assert container.wait(_PATIENCE).status == 0
    container.delete()
    pod.end(_PATIENCE)
    end = time.perf_counter()
    pods.close()
    return (end - begin) * 1000, (time.perf_counter() - first) * 1000


def _reference_figures(bench: Bench) -> Figures:
    """Yield the seconds from the start of a shim to a container that runs, and those of a second one in the pod.

    Suites tell a shim what its machine is made of; one that containerd starts for others finds it out.
    """
    running, second = _containers(bench, told=True)
    yield "reference_create_to_running", figure(running, "s", 1)
    yield "reference_second_container", figure(second, "s")
    yield "reference_create_to_running_untold", figure(_containers(bench, told=False)[0], "s", 1)


def _containers(bench: Bench, *, told: bool) -> tuple[list[float], list[float]]:
    running, second = [], []
    with _runtime(bench, "reference", told=told) as runtime:
        for _ in range(_WARM_UP + PODS):
            pods = Pods(runtime, Driver.DIRECT)
            pod = pods.prepare()
            begin = time.perf_counter()
            pod.open(_PATIENCE)
            pod.run(["sleep", "1000"])
            running.append(time.perf_counter() - begin)
            second.append(seconds(functools.partial(pod.run, ["sleep", "1000"])))
            pods.close()
    return running[_WARM_UP:], second[_WARM_UP:]


@contextlib.contextmanager
def _runtime(bench: Bench, name: str, *, told: bool = True) -> Iterator[RuntimeUnderTest]:
    settings = attrs.evolve(bench.settings, runtime=name)
    installation = find(settings)
    with contextlib.ExitStack() as opened:
        if installation.profile.own and told:
            installation = opened.enter_context(preparation.prepared(installation, bench.factory))
        ledger = Ledger(Marks())
        ledger.open()
        runtime = RuntimeUnderTest(installation, ledger)
        opened.callback(runtime.close)
        yield runtime
