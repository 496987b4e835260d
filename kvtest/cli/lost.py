# SPDX-License-Identifier: Apache-2.0
"""``kvtest run --host``: what there is of a run that has not come to its end, and what is missing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from kvtest.cli.console import errors
from kvtest.cli.status import Status, status_of
from kvtest.errors import HostLostError, KvtestError
from kvtest.host.host import Host
from kvtest.report import Outcome, ResultLog, Results, TestResult, failures, write_junit
from kvtest.report.directory import JUNIT_FILE, MISSING_FILE, RESULTS_FILE

_NAMED = 3  # tests without a result that a message names


def list_missing(results: Path) -> None:
    """Write down what is missing of a run that is not complete, whoever has ended it.

    Args:
        results: The results directory.
    """
    read = _read(results)
    if read is not None and not read.complete:
        _list_missing(results, read.missing, _without_artifacts(read))


def fetched(machine: Host, results: Path) -> int:
    """Bring the artifacts of a run, and return the status of that: those of its tests are certain whether it works.

    Args:
        machine: The host.
        results: The results directory.
    """
    try:
        machine.fetch(results)
    except KvtestError as error:
        read = _read(results)
        without_artifacts = () if read is None else _without_artifacts(read)
        _list_missing(results, (), without_artifacts)
        said = f"kvtest: the artifacts of {_tests(len(without_artifacts))} are missing: {error}"
        errors.print(said, markup=False, highlight=False, soft_wrap=True)
        return status_of(error)
    return Status.CONFORMANT


def ended_early(host: str, error: HostLostError, results: Path) -> int:
    """Tell what there is of a run that ended before its time; return its exit status.

    Args:
        host: The host, as the user wrote it.
        error: Why it did.
        results: The results directory.

    Raises:
        HostLostError: Nothing of it says that anything is violated.
    """
    read = _read(results)
    if read is None:
        raise HostLostError(f"{error.message}; there are no results yet", hint=error.hint) from error
    _add(host, error, read, results)
    without_artifacts = _without_artifacts(read)
    _list_missing(results, read.missing, without_artifacts)
    few = ", ".join(read.missing[:_NAMED]) + (", …" if len(read.missing) > _NAMED else "")
    lost = HostLostError(
        f"{error.message}; {_tests(len(read.tests))} had ended, whose results are in {results}, without the artifacts "
        f"of {len(without_artifacts)} of them, and {_tests(len(read.missing))} had not: {few or 'none is known'}",
        hint=f"{results / MISSING_FILE} lists all that is missing, and `kvtest report {results}` shows which "
        f"requirements are not tested{f'; {error.hint}' if error.hint else ''}",
    )
    if not failures(read):
        raise lost from error
    errors.print(f"kvtest: {lost}", markup=False, highlight=False, soft_wrap=True)
    return Status.VIOLATED


def _read(results: Path) -> Results | None:
    file = results / RESULTS_FILE
    return Results.read(file) if file.exists() and file.stat().st_size else None


def _add(host: str, error: HostLostError, read: Results, results: Path) -> None:
    """Have the results say what became of the host, as what became of a test: reports show nothing else in red.

    Which test was running is not known for certain.
    """
    properties = {"error": type(error).__name__, "host": host}
    end = max((test.start + test.duration for test in read.tests), default=read.run.start)
    said = TestResult(
        id=f"kvtest::host[{host}]",
        outcome=Outcome.ERROR,
        start=end,
        duration=time.time() - end,
        message=error.message,
        details=str(error),
        properties=properties,
    )
    file = results / RESULTS_FILE
    new = file.with_name(f"{file.name}.new")
    with contextlib.suppress(KvtestError), ResultLog(new, read.run) as log:  # there may be no room for it
        for test in (*read.tests, said):
            log.append(test)
        os.replace(new, file)
        write_junit(Results.read(file), results / JUNIT_FILE)
    new.unlink(missing_ok=True)


def _without_artifacts(results: Results) -> Sequence[str]:
    return [test.id for test in results.tests if (path := test.properties.get("artifacts")) and not Path(path).is_dir()]


def _list_missing(results: Path, without_result: Sequence[str], without_artifacts: Sequence[str]) -> None:
    """Write down what did not come, one test per line."""
    lines = [
        *(f"no result: {test}" for test in without_result),
        *(f"no artifacts: {test}" for test in without_artifacts),
    ]
    with contextlib.suppress(OSError):  # the message says how many
        (results / MISSING_FILE).write_text("".join(f"{line}\n" for line in lines))


def _tests(count: int) -> str:
    return f"{count} test{'s' * (count != 1)}"
