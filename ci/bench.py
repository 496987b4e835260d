# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: prints JSON with every figure and its target."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kvtest.harness import Guest, GuestFactory, GuestRequest
from kvtest.image import ImageCache
from kvtest.peers import echo, receive_all, receive_exactly
from kvtest.settings import load

TRANSFER = 256 << 20
REPEATS = 5
ROUND_TRIPS = 2000
CLONES = 100
CROWD = 100
MANY = """
import pytest
@pytest.mark.parametrize("number", range(500))
def test_fresh(guest, number):
    assert guest.run(["test", "-e", "/tmp/mine"]).code == 1
    guest.write_file("/tmp/mine", b"")
"""
GROUPS = ("image", "collection", "run", "boot", "clone", "many", "vsock")

Figure = dict[str, object]


def figure(values: list[float], unit: str, target: float | None = None, *, at_least: bool = False) -> Figure:
    """Return measured values as their median, with the target that it has to keep."""
    median = statistics.median(values)
    result: Figure = {"median": round(median, 4), "min": round(min(values), 4), "max": round(max(values), 4)}
    result |= {"unit": unit, "samples": len(values)}
    if target is not None:
        met = median >= target if at_least else median <= target
        result |= {"target": target, "target_is": "at least" if at_least else "at most", "met": met}
    return result


def seconds(work: Callable[[], object]) -> float:
    """Return how long ``work`` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def discard(connection: socket.socket) -> None:
    """Read to the end, then say how much it was; runs in the guest."""
    buffer, size = bytearray(1 << 20), 0
    while received := connection.recv_into(buffer):
        size += received
    connection.sendall(b"%d" % size)


def flood(connection: socket.socket) -> None:
    """Send as many bytes as the first line asks for; runs in the guest."""
    with connection.makefile("rb") as stream:
        left = int(stream.readline())
    chunk = bytes(1 << 20)
    while left:
        left -= connection.send(chunk[:left])


def vsock_figures(factory: GuestFactory) -> Iterator[tuple[str, Figure]]:
    """Yield throughput each way, and the round trip."""
    with factory.boot(factory.configuration(GuestRequest())) as guest:
        yield from stream_figures(guest)


def stream_figures(guest: Guest) -> Iterator[tuple[str, Figure]]:
    """Yield what one connection at a time can do."""

    def to_guest(port: int) -> float:
        chunk = bytes(1 << 20)
        with guest.vsock.connect(port, timeout=120) as connection:
            begin = time.perf_counter()
            for _ in range(TRANSFER // len(chunk)):
                connection.sendall(chunk)
            connection.shutdown(socket.SHUT_WR)
            assert receive_all(connection) == b"%d" % TRANSFER
            return TRANSFER / 1e6 / (time.perf_counter() - begin)

    def from_guest(port: int) -> float:
        buffer, size = bytearray(1 << 20), 0
        with guest.vsock.connect(port, timeout=120) as connection:
            begin = time.perf_counter()
            connection.sendall(b"%d\n" % TRANSFER)
            while received := connection.recv_into(buffer):
                size += received
            assert size == TRANSFER
            return TRANSFER / 1e6 / (time.perf_counter() - begin)

    def round_trip(connection: socket.socket) -> float:
        begin = time.perf_counter()
        connection.sendall(b"x" * 64)
        receive_exactly(connection, 64)
        return (time.perf_counter() - begin) * 1e6

    with guest.serve(discard) as service:
        yield (
            "vsock_host_to_guest",
            figure([to_guest(service.port) for _ in range(REPEATS)], "MB/s", 200, at_least=True),
        )
    with guest.serve(flood) as service:
        yield "vsock_guest_to_host", figure([from_guest(service.port) for _ in range(REPEATS)], "MB/s")
    with guest.serve(echo) as service, guest.vsock.connect(service.port) as connection:
        yield "vsock_round_trip_64_bytes", figure([round_trip(connection) for _ in range(ROUND_TRIPS)], "us", 500)


def image_figures(kernel: str) -> Iterator[tuple[str, Figure]]:
    """Yield a cold build and warm look-ups, in a cache of their own."""
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        cache = ImageCache(Path(directory))
        yield "image_cold_build", figure([seconds(lambda: cache.ensure(kernel))], "s", 25)
        lookups = [seconds(lambda: cache.ensure(kernel)) * 1000 for _ in range(20)]
        yield "image_warm_lookup", figure(lookups, "ms", 50)


def collection_figures() -> Iterator[tuple[str, Figure]]:
    """Yield what the plugin adds to ``pytest --co`` in a project that does not use it."""
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        (Path(directory) / "test_nothing.py").write_text("def test_nothing():\n    pass\n")

        def collect(*options: str) -> float:
            command = [sys.executable, "-m", "pytest", "--co", "-q", "-p", "no:cacheprovider", *options]
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
            return seconds(
                lambda: subprocess.run(command, cwd=directory, check=True, capture_output=True, env=environment)
            )

        def difference(number: int) -> float:
            if number % 2:  # whatever comes second may be faster or slower for that alone
                without = collect("-p", "no:kvtest")
                return (collect() - without) * 1000
            return (collect() - collect("-p", "no:kvtest")) * 1000

        collect()
        yield "plugin_collection_overhead", figure([difference(number) for number in range(40)], "ms", 30)


def boot_figures(factory: GuestFactory) -> Iterator[tuple[str, Figure]]:
    """Yield the time from nothing to the control daemon's first answer."""

    def boot() -> float:
        begin = time.perf_counter()
        with factory.boot(factory.configuration(GuestRequest())):
            return time.perf_counter() - begin

    yield "boot_to_first_answer", figure([boot() for _ in range(REPEATS)], "s")


def clone_figures(factory: GuestFactory) -> Iterator[tuple[str, Figure]]:
    """Yield how fast and how small clones are, and how many can live at once."""

    def started(*, vsock: bool) -> tuple[float, int]:
        begin = time.perf_counter()
        with factory.start(factory.configuration(GuestRequest(), vsock=vsock)) as guest:
            return (time.perf_counter() - begin) * 1000, anonymous_memory(guest.vm.process.pid)

    for _ in range(3):  # the template, and what the kernel remembers of it
        started(vsock=True)
    plain = [started(vsock=False) for _ in range(CLONES)]
    times = [milliseconds for milliseconds, _ in plain]
    yield "clone_first_answer", figure(times, "ms", 90)
    yield "clone_first_answer_p99", figure([percentile(times, 99)], "ms", 200)
    yield "clone_private_memory", figure([size / 1e6 for _, size in plain], "MB", 40)
    yield "clone_usable_vsock", figure([started(vsock=True)[0] for _ in range(CLONES)], "ms", 250)

    with contextlib.ExitStack() as guests:
        begin = time.perf_counter()
        alive = [
            guests.enter_context(factory.start(factory.configuration(GuestRequest(), vsock=True))) for _ in range(CROWD)
        ]
        answers = sum(guest.run(["true"]).code == 0 for guest in alive)
        yield "guests_alive_at_once", figure([answers], "guests", CROWD, at_least=True)
        yield "guests_alive_at_once_took", figure([time.perf_counter() - begin], "s")


def many_figures() -> Iterator[tuple[str, Figure]]:
    """Yield a run of many tests with a fresh guest each."""
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        (Path(directory) / "test_many.py").write_text(MANY)
        command = [str(Path(sys.executable).with_name("kvtest")), "run", "test_many.py", "-n", "2"]
        work = seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory))
    yield "run_of_500_fresh_guests", figure([work], "s", 120)


def anonymous_memory(pid: int) -> int:
    """Return the bytes of a process that it shares with nobody (proc(5), smaps_rollup)."""
    (line,) = (line for line in _lines(f"/proc/{pid}/smaps_rollup") if line.startswith("Anonymous:"))
    return int(line.split()[1]) * 1024


def percentile(values: list[float], rank: int) -> float:
    """Return the value below which ``rank`` per cent of values are."""
    return statistics.quantiles(values, n=100, method="inclusive")[rank - 1]


def run_figures() -> Iterator[tuple[str, Figure]]:
    """Yield a warm run of the suites."""
    command = [str(Path(sys.executable).with_name("kvtest")), "run"]
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        work = [*command, f"--results={directory}/results"]
        yield (
            "warm_run",
            figure([seconds(lambda: subprocess.run(work, check=True, stdout=subprocess.DEVNULL))], "s", 40),
        )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", default="6.12", help="guest kernel")
    parser.add_argument("--only", choices=GROUPS, action="append", help="only this group; can be repeated")
    options = parser.parse_args()
    settings = load({"guest_kernel": options.kernel}, os.environ, {}, Path.cwd()).settings
    figures: dict[str, Figure] = {}

    def measure(source: Iterator[tuple[str, Figure]]) -> None:
        for name, result in source:
            print(f"{name}: {result['median']} {result['unit']}", file=sys.stderr)
            figures[name] = result

    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        factory = GuestFactory(settings, Path(directory))
        factory.prepare()
        sources = {
            "image": lambda: image_figures(options.kernel),
            "collection": collection_figures,
            "run": run_figures,
            "boot": lambda: boot_figures(factory),
            "clone": lambda: clone_figures(factory),
            "many": many_figures,
            "vsock": lambda: vsock_figures(factory),
        }
        for name in options.only or sources:
            measure(sources[name]())
        machine = {
            "cpu": next(
                (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
            ),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "qemu": factory.qemu.version,
            "accelerator": factory.accelerator.accelerator.value,
            "guest_kernel": factory.image().release,
            "bench": hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12],
        }
    print(json.dumps({"machine": machine, "figures": figures}, indent=2))


if __name__ == "__main__":
    main()
