# SPDX-License-Identifier: Apache-2.0
"""Guests: how fast they boot, how fast and how small clones are, and how many can live at once."""

from __future__ import annotations

import contextlib
import time

from benchmarks.figures import Bench, Figures, figure, lines, tail
from kvtest.harness import GuestRequest

BOOTS = 5
CLONES = 100
CROWD = 100


def boot_figures(bench: Bench) -> Figures:
    """Yield the time from nothing to the control daemon's first answer."""
    factory = bench.factory

    def boot() -> float:
        begin = time.perf_counter()
        with factory.boot(factory.configuration(GuestRequest())):
            return time.perf_counter() - begin

    yield "boot_to_first_answer", figure([boot() for _ in range(BOOTS)], "s")


def clone(bench: Bench, *, vsock: bool) -> tuple[float, int]:
    """Start a clone; return the milliseconds to its first answer, and the bytes that it shares with nobody."""
    begin = time.perf_counter()
    with bench.factory.start(bench.factory.configuration(GuestRequest(), vsock=vsock)) as guest:
        return (time.perf_counter() - begin) * 1000, anonymous_memory(guest.vm.process.pid)


def first_command(bench: Bench) -> float:
    """Start a clone and a command in it; return the milliseconds to the command's end."""
    begin = time.perf_counter()
    with bench.factory.start(bench.factory.configuration(GuestRequest(), vsock=False)) as guest:
        guest.run(["true"]).check()
        return (time.perf_counter() - begin) * 1000


def clone_figures(bench: Bench) -> Figures:
    """Yield what clones cost, and a crowd of them."""
    for _ in range(3):  # the template, and what the kernel remembers of it
        clone(bench, vsock=True)
    plain = [clone(bench, vsock=False) for _ in range(CLONES)]
    times = [milliseconds for milliseconds, _ in plain]
    yield "clone_first_answer", figure(times, "ms", 90)
    yield "clone_first_answer_p99", tail(times, "ms", 200)
    yield "clone_private_memory", figure([size / 1e6 for _, size in plain], "MB", 40)
    yield "clone_usable_vsock", figure([clone(bench, vsock=True)[0] for _ in range(CLONES)], "ms", 250)
    yield "clone_first_command", figure([first_command(bench) for _ in range(CLONES)], "ms")
    yield from crowd_figures(bench)


def crowd_figures(bench: Bench) -> Figures:
    """Yield how many of many guests answer while all of them are alive."""
    factory = bench.factory
    with contextlib.ExitStack() as guests:
        begin = time.perf_counter()
        configurations = (factory.configuration(GuestRequest(), vsock=True) for _ in range(CROWD))
        alive = [guests.enter_context(factory.start(configuration)) for configuration in configurations]
        answers = sum(guest.run(["true"]).code == 0 for guest in alive)
        yield "guests_alive_at_once", figure([answers], "guests", CROWD, at_least=True)
        yield "guests_alive_at_once_took", figure([time.perf_counter() - begin], "s")


def anonymous_memory(pid: int) -> int:
    """Return the bytes of a process that it shares with nobody (proc(5), smaps_rollup)."""
    (line,) = (line for line in lines(f"/proc/{pid}/smaps_rollup") if line.startswith("Anonymous:"))
    return int(line.split()[1]) * 1024
