# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the runtime ring: ``pod``, ``shared_pod``, ``pods``, ``runtime`` and ``driver``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from kvtest.plugin.evidence import PODS
from kvtest.plugin.timeouts import suspended

if TYPE_CHECKING:
    from kvtest.census import Ledger
    from kvtest.runtime import Driver, Pod, Pods, RuntimeUnderTest


@pytest.fixture(scope="session")
def _runtime_of_the_session(request: pytest.FixtureRequest) -> Iterator[RuntimeUnderTest]:
    from kvtest.plugin.session import session_of
    from kvtest.runtime import RuntimeUnderTest
    from kvtest.runtime.installation import find

    session = session_of(request.config)
    settings = session.settings
    installation = find(settings)
    with contextlib.ExitStack() as opened:
        if installation.profile.own:
            from kvtest.runtime.reference.preparation import prepared

            session.serve_monitors()
            with suspended():
                installation = opened.enter_context(prepared(installation, session.factory))
        runtime = RuntimeUnderTest(installation, session.ledger, settings.run_directory, settings.pods_in_a_row)
        opened.callback(runtime.close)
        yield runtime


@pytest.fixture
def runtime(census: Ledger, _runtime_of_the_session: RuntimeUnderTest) -> RuntimeUnderTest:
    """The container runtime under test."""
    return _runtime_of_the_session


@pytest.fixture(
    params=["direct", pytest.param("containerd", marks=pytest.mark.capability("containerd"))],
)
def driver(request: pytest.FixtureRequest) -> Driver:
    """Who runs the shims."""
    from kvtest.runtime import Driver

    return Driver(request.param)


@pytest.fixture
def pods(request: pytest.FixtureRequest, runtime: RuntimeUnderTest, driver: Driver) -> Iterator[Pods]:
    """Makes pods; they end with the test, and what they leave on the host fails it."""
    from kvtest.runtime import Pods

    pods = request.node.stash[PODS] = Pods(runtime, driver)
    yield pods
    pods.close()


@pytest.fixture
def pod(pods: Pods) -> Pod:
    """A pod whose shim has been started, without a container."""
    return pods.start()


@pytest.fixture
def shared_pod(request: pytest.FixtureRequest, pods: Pods) -> Iterator[Pod]:
    """A pod that other tests have used and will use: for tests that leave it as they have found it.

    It has a container already, which stays, as pods of Kubernetes have; what else the test has in it ends with the
    test. It is a pod of the test's own where the runtime has no pods of several containers, or the settings say so.
    """
    from kvtest.plugin.session import session_of
    from kvtest.start import PodUse

    runtime = pods.runtime
    if session_of(request.config).settings.pods is PodUse.OWN or "group" not in runtime.installation.profile.features:
        yield pods.start()
        return
    with runtime.shared.lend(pods.driver) as pod:
        pods.lent = pod
        yield pod
