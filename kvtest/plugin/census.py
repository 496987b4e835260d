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

        session_of(item.config).ledger.open()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test that has left something after the last of its fixtures.

    Raises:
        LeakError: It has.
    """
    result = yield
    session = existing_session(item.config)
    if session is not None and is_ours(item):
        from kvtest.census import Kind
        from kvtest.deadline import Deadline

        # What a failed test had open, pytest keeps with its traceback.
        failed = any(name == "error" for name, _ in item.user_properties)
        session.ledger.close(Deadline(session.settings.census_timeout), without=(Kind.DESCRIPTOR,) if failed else ())
    return result


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
