# SPDX-License-Identifier: Apache-2.0
"""Results as JSON lines: one for the run, one for each test as soon as it is over, one for the end.

Each line is handed to the kernel when it is written, so that a killed run keeps the results that it had. Reports are
made from this file alone. A line is an object with a ``kind`` (``run``, ``test``, ``end``) and the fields of the class
of that kind.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import attrs

from kvtest.conformance import Plan
from kvtest.errors import HostError, UsageError
from kvtest.typed import structure

FORMAT = 2
"""Number of the format; a reader refuses any other."""

# pytest-xdist with --dist loadgroup appends @ and the group to node IDs (with some versions of pytest). A function's
# name has no at sign and a parameter ends with a bracket, so that an at sign behind both is xdist's.
_GROUPED = re.compile(r"(?P<test>[^\[@]*(?:\[.*\])?)@[^\]]*", re.DOTALL)


class Outcome(StrEnum):
    """How a test ended."""

    PASSED = "passed"
    FAILED = "failed"
    """An assertion of the test did not hold."""
    ERROR = "error"
    """What the test stands on broke: setting up or tearing down, or a guest that did not boot."""
    SKIPPED = "skipped"


@attrs.frozen(kw_only=True)
class TestResult:
    """What became of one test.

    Args:
        id: The node ID, the same with and without parallel workers (see :func:`stable_id`).
        outcome: How it ended.
        start: When it began, in seconds since the epoch.
        duration: How long it took with setting up and tearing down, in seconds.
        message: First cause of a failure or reason of a skip, one line.
        details: All that is known of a failure.
        stdout: Captured standard output.
        stderr: Captured standard error.
        properties: Facts by name: ``requirement``, ``transport``, ``guest_kernel``, ``host_kernel``, ``qemu``,
            ``accelerator``, ``artifacts``, and any other.
    """

    __test__: ClassVar[bool] = False  # pytest takes classes of that name for tests

    id: str
    outcome: Outcome
    start: float
    duration: float
    message: str = ""
    details: str = ""
    stdout: str = ""
    stderr: str = ""
    properties: dict[str, str] = attrs.field(factory=dict)

    @property
    def requirements(self) -> tuple[str, ...]:
        """The IDs of the requirements that the test names."""
        return tuple(name for name in self.properties.get("requirement", "").split(", ") if name)


@attrs.frozen(kw_only=True)
class RunInfo:
    """What is known of a run before its first test.

    Args:
        start: When it began, in seconds since the epoch.
        hostname: The machine.
        name: What was run, such as the ring.
        command: The command line that repeats it.
        root: The directory that the IDs of tests are relative to; empty where they are of several runs.
        properties: Facts that hold for all tests: versions, settings that were changed.
        plan: The requirements, and the tests that name them.
        format: Number of the file format.
    """

    start: float
    hostname: str
    name: str = "kvtest"
    command: str = ""
    root: str = ""
    properties: dict[str, str] = attrs.field(factory=dict)
    plan: Plan = Plan()
    format: int = FORMAT


@attrs.frozen(kw_only=True)
class _End:
    time: float


@attrs.frozen
class Results:
    """Everything that a results file holds.

    Args:
        run: The run.
        tests: Its tests in the order in which they ended.
        end: When it was over, in seconds since the epoch; ``None`` where it was killed before.
    """

    run: RunInfo
    tests: tuple[TestResult, ...]
    end: float | None

    @property
    def complete(self) -> bool:
        """Whether the run came to its end."""
        return self.end is not None

    @property
    def duration(self) -> float:
        """Wall-clock time of the run in seconds, up to the last thing known of it."""
        last = max((test.start + test.duration for test in self.tests), default=self.run.start)
        return max(0.0, (last if self.end is None else self.end) - self.run.start)

    @property
    def missing(self) -> tuple[str, ...]:
        """The IDs of the tests that were to be run, and of which nothing is known."""
        ended = {test.id for test in self.tests}
        planned = (test.id for test in self.run.plan.tests if not test.left_out and not test.not_applicable)
        return tuple(test for test in planned if test not in ended)

    def count(self) -> Mapping[Outcome, int]:
        """Return how many tests ended in which way; every outcome is there."""
        counted = Counter(test.outcome for test in self.tests)
        return {outcome: counted[outcome] for outcome in Outcome}

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return what a results file holds. A last line that a killed run left unfinished is passed over.

        Args:
            path: The file.

        Raises:
            UsageError: It cannot be read, or is not such a file.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read the results {path}: {error.strerror}") from error
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, path: Path) -> Results:
        """Return what the content of a results file says; the arguments, and what is raised, are as of :meth:`read`."""
        run: RunInfo | None = None
        tests: list[TestResult] = []
        end: float | None = None
        lines = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            where = f"{path}:{number}"
            try:
                table = json.loads(line)
            except ValueError as error:
                if number == len(lines):  # without a line feed at its end: the write was cut short
                    break
                raise UsageError(f"{where}: not a line of JSON: {error}") from None
            kind = table.pop("kind", None) if isinstance(table, dict) else None
            if run is None:
                if kind != "run" or table.get("format") != FORMAT:
                    raise UsageError(f"{where}: does not begin a results file of format {FORMAT}")
                run = structure(RunInfo, table, where=where)
            elif kind == "test":
                tests.append(structure(TestResult, table, where=where))
            elif kind == "end":
                end = structure(_End, table, where=where).time
            else:
                raise UsageError(f"{where}: a line of unknown kind {kind!r}")
        if run is None:
            raise UsageError(f"{path}: holds no results")
        return cls(run, tuple(tests), end)


class ResultLog:
    """A results file that is being written.

    Use as a context manager, which closes the file; :meth:`finish` marks the run as complete.

    Args:
        path: The file; one that is there is replaced, missing directories are made.
        run: What is known of the run.

    Raises:
        UsageError: The file cannot be made.
    """

    def __init__(self, path: Path, run: RunInfo) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=0)  # a line is in the kernel's hands once it is written
        except OSError as error:
            raise UsageError(
                f"cannot write results to {path}: {error.strerror}",
                hint="the results directory has to be a directory that you can write to",
            ) from error
        try:
            self._write("run", run)
        except HostError:
            self.close()
            raise

    def append(self, result: TestResult) -> None:
        """Write one result; a run that is killed after this has it.

        Args:
            result: The result.

        Raises:
            HostError: The file system does not take it.
        """
        self._write("test", result)

    def finish(self, time: float) -> None:
        """Mark the run as complete.

        Args:
            time: When it was over, in seconds since the epoch.

        Raises:
            HostError: The file system does not take it.
        """
        self._write("end", _End(time=time))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, kind: str, value: Any) -> None:
        # ASCII with JSON's escapes keeps lone surrogates, so that what a guest sent survives unchanged until a report
        # makes it safe in its own way.
        line = json.dumps({"kind": kind, **attrs.asdict(value)}, ensure_ascii=True) + "\n"
        rest = line.encode("ascii")
        begin = self._file.tell()
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):  # a part of a line is none, and others may follow
                self._file.truncate(begin)
                self._file.seek(begin)
            raise HostError(
                f"cannot write results to {self.path}: {error.strerror}",
                hint="make room, or choose another directory with --results",
            ) from error


def stable_id(node_id: str) -> str:
    """Return a node ID as it is without parallel workers: the group that pytest-xdist may append is taken off.

    Args:
        node_id: The node ID, as pytest reports it.
    """
    path, separator, rest = node_id.partition("::")
    grouped = _GROUPED.fullmatch(rest)
    return path + separator + (grouped["test"] if grouped else rest)
