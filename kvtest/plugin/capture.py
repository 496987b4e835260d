# SPDX-License-Identifier: Apache-2.0
"""What a test sent and received over the host kernel's vhost-vsock, among its artifacts: ``vsock.pcap``."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from kvtest.capture import Capture
from kvtest.plugin.collection import is_ours, transports_of
from kvtest.plugin.state import existing_session
from kvtest.transport import Transport

if TYPE_CHECKING:
    from kvtest.plugin.session import Session
    from kvtest.vsock.monitor import Recording

FILE = "vsock.pcap"
NOTE = "vsock.txt"
_RECORDING: pytest.StashKey[Recording] = pytest.StashKey()
_PROBLEM: pytest.StashKey[str] = pytest.StashKey()
_FAILED: pytest.StashKey[bool] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Begin to record before a test's fixtures are made.

    Raises:
        HostError: It cannot be done here, and was asked for.
    """
    if is_ours(item) and Transport.VHOST_VSOCK in transports_of(item):
        from kvtest.errors import HostError
        from kvtest.plugin.session import session_of

        session = session_of(item.config)
        if session.settings.capture is not Capture.NEVER:
            try:
                item.stash[_RECORDING] = session.monitor.record()
            except HostError as error:
                if session.settings.capture is Capture.ALWAYS:
                    raise
                item.stash[_PROBLEM] = error.message
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note down that a test has failed."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Keep what was recorded, if it is wanted."""
    failed = True
    try:
        result = yield
        failed = _FAILED in item.stash
    finally:
        session = existing_session(item.config)
        if session is not None:
            _end(item, session, wanted=failed or session.settings.capture is Capture.ALWAYS)
    return result


def _end(item: pytest.Item, session: Session, *, wanted: bool) -> None:
    recording = item.stash.get(_RECORDING, None)
    notes = [f"there is no capture: {item.stash[_PROBLEM]}"] if _PROBLEM in item.stash else []
    if recording is not None:
        try:
            if wanted:
                recording.write(session.artifacts(item) / FILE, session.ledger.marks.cids)
                if lost := recording.lost():
                    notes.append(f"{FILE} has the first packets; there was no room for {lost} that came after them")
        finally:
            recording.close()
            del item.stash[_RECORDING]
    if wanted and notes:
        (session.artifacts(item) / NOTE).write_text("\n".join(notes) + "\n")
