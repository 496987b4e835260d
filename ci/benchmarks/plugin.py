# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: what it costs a project, a test, and a run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.figures import Bench, Figures, figure, lines, seconds, tail
from kvtest.cli.status import Status

COLLECTIONS = 40
TESTS = 60
MANY = 500
_WARM_UP = 3  # tests that find nothing in any cache
_MEASURED_TESTS = """
import pytest
@pytest.mark.measurement
@pytest.mark.parametrize("number", range({count}))
def test_fresh(guest, number):
    pass
"""
# The set-up of a test is a census and its fixtures; `guest` is there when its control daemon has answered.
_STOPWATCH = """
import time
from pathlib import Path
from kvtest.census import Ledger

def note(name, value):
    with Path(__file__).with_name(name).open("a") as stream:
        print(value, file=stream)

def pytest_runtest_logreport(report):
    if report.when == "setup":
        note("set-ups", report.duration)

def timed(method):
    def measured(*arguments, **keywords):
        begin = time.perf_counter()
        try:
            return method(*arguments, **keywords)
        finally:
            note("censuses", time.perf_counter() - begin)
    return measured

Ledger.open, Ledger.close = timed(Ledger.open), timed(Ledger.close)
"""
_MANY_TESTS = """
import pytest
@pytest.mark.parametrize("number", range({count}))
def test_fresh(guest, number):
    assert guest.run(["test", "-e", "/tmp/mine"]).code == 1
    guest.write_file("/tmp/mine", b"")
"""


def collection_figures(_: Bench) -> Figures:
    """Yield what the plugin adds to ``pytest --co`` in a project that does not use it."""
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        (Path(directory) / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

        def collect(*options: str) -> float:
            command = [sys.executable, "-m", "pytest", "--co", "-q", "-p", "no:cacheprovider", *options]
            return seconds(
                lambda: subprocess.run(command, cwd=directory, check=True, capture_output=True, env=environment)
            )

        def difference(number: int) -> float:
            if number % 2:  # whatever comes second may be faster or slower for that alone
                without = collect("-p", "no:kvtest")
                return (collect() - without) * 1000
            return (collect() - collect("-p", "no:kvtest")) * 1000

        collect()
        yield "plugin_collection_overhead", figure([difference(number) for number in range(COLLECTIONS)], "ms", 30)


def fixture_figures(bench: Bench) -> Figures:
    """Yield what a test waits for its guest, and what the census around it takes."""
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        base = Path(directory)
        (base / "test_measured.py").write_text(_MEASURED_TESTS.format(count=TESTS + _WARM_UP))
        (base / "conftest.py").write_text(_STOPWATCH)
        run_kvtest(bench, base, "test_measured.py")
        set_ups = [float(line) * 1000 for line in lines(base / "set-ups")][_WARM_UP:]
        parts = [float(line) * 1000 for line in lines(base / "censuses")][2 * _WARM_UP :]
    yield "fixture_first_answer", figure(set_ups, "ms", 90)
    yield "fixture_first_answer_p99", tail(set_ups, "ms", 200)
    around = [before + after for before, after in zip(parts[::2], parts[1::2], strict=True)]
    yield "census_per_test", figure(around, "ms", 10)


def run_figures(bench: Bench) -> Figures:
    """Yield a warm run of what ``ci/run`` runs."""
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        yield "warm_run", figure([seconds(lambda: run_kvtest(bench, Path(directory), "transport"))], "s", 40)


def many_figures(bench: Bench) -> Figures:
    """Yield a run of many tests with a fresh guest each, and what it leaves."""
    with tempfile.TemporaryDirectory(prefix="kvtest-bench-") as directory:
        base = Path(directory)
        (base / "test_many.py").write_text(_MANY_TESTS.format(count=MANY))
        runs = base / "runs"
        runs.mkdir(mode=0o700)
        work = seconds(lambda: run_kvtest(bench, base, "test_many.py", "-n", "2", f"--run-directory={runs}"))
        left = [*runs.iterdir(), *_processes_of(base)]
    yield "run_of_500_fresh_guests", figure([work], "s", 120)
    yield "run_of_500_fresh_guests_left", figure([len(left)], "processes and run directories", 0)


def run_kvtest(bench: Bench, directory: Path, *arguments: str, violations: bool = False) -> None:
    """Run ``kvtest run`` with the kernel that is measured.

    Args:
        bench: What is measured.
        directory: Its results go below this directory.
        *arguments: What it is told.
        violations: Whether it may find some.

    Raises:
        CalledProcessError: It ended otherwise.
    """
    command = [str(Path(sys.executable).with_name("kvtest")), "run", *arguments]
    command += [f"--guest-kernel={bench.settings.kernel}", f"--results={directory}/results"]
    completed = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, cwd=directory)
    if completed.returncode not in ((Status.CONFORMANT, Status.VIOLATED) if violations else (Status.CONFORMANT,)):
        sys.stderr.write(completed.stdout)
        completed.check_returncode()


def _processes_of(directory: Path) -> list[Path]:
    """Return the processes whose command line names a directory: each QEMU's names where its console goes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # it has ended
            continue
        if os.fsencode(directory) in command:
            found.append(path.parent)
    return found
