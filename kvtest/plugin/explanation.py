# SPDX-License-Identifier: Apache-2.0
"""A failure, explained: first cause, violated promise, evidence, and the command that shows it again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from _pytest._code.code import ExceptionChainRepr  # pytest has no public name for it

from kvtest.errors import DeadlineExceededError, DeviceError, InternalError, KvtestError, LeakError
from kvtest.plugin.collection import catalogue_of, requirements_of, transports_of
from kvtest.plugin.evidence import guest_of, keep_diagnosis, keep_pods
from kvtest.plugin.options import reproduce_command
from kvtest.plugin.session import artifacts_directory, session_of
from kvtest.report.text import safe
from kvtest.resources import package_directory

_BUSY = 3.0  # load per processor; a run by itself, with a worker for each processor, has about 1.5


def properties(item: pytest.Item) -> list[tuple[str, str]]:
    """Return what identifies a test's result before its guest is known."""
    return [
        ("requirement", ", ".join(requirements_of(item))),
        ("transport", ", ".join(sorted(transports_of(item)))),
        ("artifacts", str(artifacts_directory(item))),
    ]


def explain(item: pytest.Item, exception: pytest.ExceptionInfo[BaseException], report: pytest.TestReport) -> None:
    """Add a section to a failed report.

    What kvtest raised on purpose outside the test itself (no QEMU, a guest that does not boot) is one message, not a
    traceback; a traceback of ours goes into the artifacts.

    Args:
        item: The test.
        exception: What it raised.
        report: The report to add to.
    """
    error = exception.value
    internal = _internal(item)
    kinds = []
    if not any(name == "error" for name, _ in item.user_properties):  # what fails after a failure is its consequence
        kinds.append(("error", type(internal or error).__name__))
        if internal is None and not isinstance(error, KvtestError) and not _is_ours(exception):
            kinds.append(("fault_of", "the test"))
    if isinstance(error, LeakError):
        kinds.append(("leak", error.message.splitlines()[0]))
    report.user_properties.extend(kinds)
    item.user_properties.extend(kinds)  # for the reports that follow
    artifacts = session_of(item.config).artifacts(item)
    if report.when == "call":
        keep_pods(item)
    if isinstance(error, KvtestError) and (report.when == "setup" or isinstance(error, LeakError)):
        (artifacts / "traceback.txt").write_text(str(exception.getrepr(style="long")))
        report.longrepr = safe(str(error))
    _make_safe(report.longrepr)
    lines = [f"first cause: {first_cause(item, error)}"]
    if isinstance(error, DeadlineExceededError):
        lines.append(f"evidence: {keep_diagnosis(item)}")
        lines += overload(os.getloadavg()[0], os.cpu_count() or 1)
    if internal is not None:
        (artifacts / "internal-error.txt").write_text(internal.details)
    catalogue = catalogue_of(item.config)
    # Neither our own fault nor what is left on the host, nor a guest that does not boot, says anything of a promise.
    silent = report.when != "call" or internal is not None or isinstance(error, LeakError)
    for identifier in [] if silent else requirements_of(item):
        requirement = catalogue[identifier]
        lines += [f"violated: {requirement}", f"  source: {'; '.join(map(str, requirement.sources))}"]
    lines += [f"artifacts: {artifacts}", f"reproduce: {reproduce_command(item)}"]
    lines = [safe(line) for line in lines]  # a guest may have had a part in them
    report.sections.append(("kvtest", "\n".join(lines)))
    (artifacts / "failure.txt").write_text("\n".join(lines) + f"\n\n{report.longreprtext}\n")


def first_cause(item: pytest.Item, error: BaseException) -> str:
    """Return what went wrong first, in one line: a broken device or a dead guest comes before what followed from it."""
    internal = _internal(item)
    if internal is not None:
        return f"kvtest itself is at fault: {internal.message}"
    guest = guest_of(item)
    if guest is not None:
        fault = guest.device_fault
        if isinstance(fault, DeviceError):
            return f"the guest broke the vsock device: {fault.message}"
        if guest.died is not None:
            return guest.died
    message = error.message if isinstance(error, KvtestError) else str(error)
    return f"{type(error).__name__}: {message.splitlines()[0]}" if message else type(error).__name__


def overload(load: float, processors: int) -> list[str]:
    """Return a line that says so if a machine had much more to do than it could: what took too long may be due to that.

    Args:
        load: The load average of the last minute (proc(5), ``/proc/loadavg``).
        processors: How many there are.
    """
    if load < _BUSY * processors:
        return []
    return [
        f"note: this machine was busy, with a load average of {load:.1f} on {processors} processors; "
        "run it again with less beside it, or with fewer workers, before you look for a fault"
    ]


def _make_safe(representation: object) -> None:
    """Take out of pytest's story what would drive the terminal: the difference of two texts shows them as they are."""
    if isinstance(representation, ExceptionChainRepr):
        for traceback, crash, _ in representation.chain:
            for entry in traceback.reprentries:
                entry.lines = [safe(line) for line in entry.lines]
            if crash is not None:
                crash.message = safe(crash.message)


def _is_ours(exception: pytest.ExceptionInfo[BaseException]) -> bool:
    """Whether something was raised by kvtest's code, called rightly or wrongly, or by what it uses.

    The plugin's hooks are around every test, so they count only where it was raised in them.
    """
    *around, innermost = (Path(str(entry.path)) for entry in exception.traceback)
    package = package_directory()
    within = [path for path in around if not path.is_relative_to(package / "plugin")]
    return any(path.is_relative_to(package) for path in (*within, innermost))


def _internal(item: pytest.Item) -> InternalError | None:
    guest = guest_of(item)
    fault = guest.device_fault if guest is not None else None
    return fault if isinstance(fault, InternalError) else None
