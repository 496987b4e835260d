# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin.

Every pytest run of an environment that has kvtest installed imports this module, so nothing heavy is imported here, nor
by the modules it imports: that waits until a test asks for a guest.
"""

from __future__ import annotations

import pytest

from kvtest.plugin import (
    agent_fixtures,
    capture,
    census,
    collection,
    endings,
    fixtures,
    kernel_health,
    kernels,
    notes,
    options,
    plan,
    preflight,
    runtime_fixtures,
    scheduling,
    timeouts,
)
from kvtest.plugin.crash import Crashes
from kvtest.plugin.reporting import Reporting

# Their assertions are those of the tests that share them, and tell as much.
pytest.register_assert_rewrite(*(f"kvtest.runtime.{name}" for name in ("losses", "neighbours", "phases", "under_way")))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register ``--kvtest-*`` and its ini twins."""
    options.register(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, the fixtures, and what follows a run."""
    options.check_before_workers(config)
    collection.register_markers(config)
    config.pluginmanager.register(collection, "kvtest-collection")
    config.pluginmanager.register(fixtures, "kvtest-fixtures")
    config.pluginmanager.register(kernels, "kvtest-kernels")
    config.pluginmanager.register(kernel_health, "kvtest-kernel-health")
    config.pluginmanager.register(agent_fixtures, "kvtest-agent-fixtures")
    config.pluginmanager.register(runtime_fixtures, "kvtest-runtime-fixtures")
    config.pluginmanager.register(census, "kvtest-census")
    config.pluginmanager.register(capture, "kvtest-capture")
    config.pluginmanager.register(Crashes(config), "kvtest-crashes")
    config.pluginmanager.register(notes, "kvtest-notes")
    config.pluginmanager.register(plan, "kvtest-plan")
    config.pluginmanager.register(preflight, "kvtest-preflight")
    config.pluginmanager.register(scheduling, "kvtest-scheduling")
    config.pluginmanager.register(endings, "kvtest-endings")
    config.pluginmanager.register(timeouts, "kvtest-timeouts")
    config.pluginmanager.register(Reporting(config), "kvtest-reporting")
