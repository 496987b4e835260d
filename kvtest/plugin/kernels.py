# SPDX-License-Identifier: Apache-2.0
"""Runs with several guest kernels: what has a guest of the settings' kernel runs once with each."""

from __future__ import annotations

import pytest

from kvtest.plugin import options
from kvtest.plugin.collection import GUEST_KERNEL, uses


@pytest.fixture
def guest_kernel(request: pytest.FixtureRequest) -> str:
    """Name of the kernel of ``guest``, unless the test's marker asks for another."""
    return str(getattr(request, "param", None) or options.loaded(request.config).settings.kernel)


@pytest.hookimpl(trylast=True)  # the kernel comes last in the IDs
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test per kernel, where several were named."""
    if GUEST_KERNEL not in metafunc.fixturenames or not uses(metafunc.definition, GUEST_KERNEL):
        return
    try:
        settings = options.loaded(metafunc.config).settings
    except pytest.UsageError:  # told once, after the collection
        return
    own = any(mark.kwargs.get("kernel") is not None for mark in metafunc.definition.iter_markers("guest"))
    brought = settings.agent_address is not None or settings.agent_kernel is not None
    elsewhere = brought and "endpoint" in metafunc.fixturenames
    if len(settings.guest_kernel) > 1 and not own and not elsewhere:
        # As of a module: so that its tests run with one kernel after the other, and share the guests that they share.
        metafunc.parametrize(GUEST_KERNEL, settings.guest_kernel, indirect=True, scope="module")
