# SPDX-License-Identifier: Apache-2.0
"""Tests that end pytest itself, or go on as another process: neither passes for a run that came to its end."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from kvtest.plugin import notes
from kvtest.plugin.collection import is_ours

_INCOMPLETE = 2  # the exit status of a run that did not come to its end
_real_exit = os._exit


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let a test of ours that ends this process at once not end it with success; a worker's end is noticed anyway."""
    if not notes.is_worker(session.config) and any(is_ours(item) for item in session.items):
        owner = os.getpid()

        def exit_at_once(status: int) -> None:
            if os.getpid() == owner:  # and no child that was forked away
                _say(session.config, "a test has ended pytest itself with os._exit(): this run is incomplete")
                status = status or _INCOMPLETE
            _real_exit(status)

        os._exit = exit_at_once  # type: ignore[assignment]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Whoever ends this process after the last test may."""
    os._exit = _real_exit


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """End a child that a test has forked and that comes back from it: it would write its own results among ours."""
    owner = os.getpid()
    try:
        return (yield)
    finally:
        if is_ours(item) and os.getpid() != owner:
            _say(item.config, f"a child that {item.nodeid} has forked came back from the test")
            _real_exit(1)


def _say(config: pytest.Config, message: str) -> None:
    """Tell people what pytest would have captured, right before the end of this process."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture(in_=True)
    os.write(2, f"\nkvtest: {message}\n".encode())
