# SPDX-License-Identifier: Apache-2.0
"""The result of a test that its worker has died in is identified as any other."""

from __future__ import annotations

import pytest

from kvtest.plugin import notes
from kvtest.plugin.collection import is_ours

_FILE = "tests.json"


class Crashes:
    """The hooks of workers, which say what identifies their tests, and of their controller.

    Args:
        config: pytest's configuration.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """On a worker, tell the controller what identifies each test."""
        ours = [item for item in session.items if is_ours(item)]
        if notes.is_worker(self._config) and ours:
            from kvtest.plugin import explanation

            notes.leave(self._config, _FILE, {item.nodeid: explanation.properties(item) for item in ours})

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Add what identifies the test that a worker has died in."""
        from kvtest.errors import WorkerLostError

        told = notes.left(self._config, _FILE) or {}
        report.user_properties.extend((name, value) for name, value in told.get(crashitem, []))
        report.user_properties.append(("error", WorkerLostError.__name__))
