# SPDX-License-Identifier: Apache-2.0
"""A census around every test of ours: what it leaves on the host fails it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from kvtest.plugin.collection import is_ours
from kvtest.plugin.state import existing_session

if TYPE_CHECKING:
    from kvtest.census import Ledger


_RAISED = pytest.StashKey[bool]()


@pytest.fixture
def census(request: pytest.FixtureRequest) -> Ledger:
    """What exists on the host because of this test; tell its marks how to know what no process of ours holds."""
    from kvtest.plugin.session import session_of

    return session_of(request.config).ledger


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Take what is there before a test's fixtures."""
    if is_ours(item):
        from kvtest.plugin.session import session_of

        session = session_of(item.config)
        # What other workers' tests keep is in other directories.
        session.ledger.marks.places.clear()
        session.ledger.marks.add_place(session.artifacts(item))
        session.ledger.open()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test that has left something after the last of its fixtures.

    Raises:
        LeakError: It has.
    """
    session = existing_session(item.config)
    temporary = getattr(item, "funcargs", {}).get("tmp_path")
    if session is not None and temporary is not None:
        session.ledger.marks.add_place(temporary)
    result = yield
    if session is not None and is_ours(item):
        from kvtest.census import Kind
        from kvtest.deadline import Deadline

        # What a failed test had open, pytest keeps with its traceback.
        failed = _RAISED in item.stash
        session.ledger.close(Deadline(session.settings.census_timeout), without=(Kind.DESCRIPTOR,) if failed else ())
    return result


@pytest.hookimpl(wrapper=True)  # within that of the reporting, which explains failures
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a leak be a failure also of a test that is expected to fail: nobody expects that one."""
    report = yield
    if call.excinfo is not None:
        item.stash[_RAISED] = True
        from kvtest.errors import LeakError

        if isinstance(call.excinfo.value, LeakError) and hasattr(report, "wasxfail"):
            del report.wasxfail
            report.outcome = "failed"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Let what a fixture of a wider scope makes outlive the test that happens to be the first to use it."""
    session = existing_session(request.config)
    if session is None or fixturedef.scope == "function":
        return (yield)
    with session.ledger.lasting(fixturedef):
        return (yield)


def pytest_fixture_post_finalizer(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """Expect what a fixture of a wider scope has made to be gone after its end."""
    session = existing_session(request.config)
    if session is not None:
        session.ledger.release(fixturedef)
