# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the agent ring: ``endpoint``, which can be dialled many times, and ``agent``, one connection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvtest.plugin import options
from kvtest.transport import Transport

if TYPE_CHECKING:
    from kvtest.harness import Guest
    from kvtest.runtime.agent import Agent, AgentEndpoint

PORT = 1024


# The transport is the fixture's own parameter, as that of `vsock` is; a test may ask for another, or for both, with
# @pytest.mark.parametrize("endpoint", [...], indirect=True).
@pytest.fixture(params=[Transport.VHOST_USER_VSOCK], ids=str)
def endpoint(request: pytest.FixtureRequest, artifacts: Path) -> Iterator[AgentEndpoint]:
    """The agent under test: in a guest as ``@pytest.mark.guest`` asks for it, or at ``--agent-address``."""
    from kvtest.runtime.agent import AgentEndpoint
    from kvtest.runtime.agent_address import HybridAddress, SerialAddress

    settings = options.loaded(request.config).settings
    guest: Guest | None = None
    if settings.agent_address is not None:
        endpoint = AgentEndpoint.of(settings.agent_address, settings.request_timeout)
    else:
        guest = request.getfixturevalue("guest")
        if Transport(request.param) is Transport.VIRTIO_SERIAL:
            address: HybridAddress | SerialAddress = SerialAddress(str(guest.serial_ports[0].path))
        else:
            address = HybridAddress(str(guest.vm.hybrid_path), PORT)
        endpoint = AgentEndpoint(address, settings.request_timeout)
    endpoint = endpoint.in_its_version()
    yield endpoint
    if endpoint.created and (guest is None or guest.broken is None):
        endpoint.remove_all()


@pytest.fixture
def agent(endpoint: AgentEndpoint) -> Iterator[Agent]:
    """A connection to the agent under test."""
    with endpoint.connect() as agent:
        yield agent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the agent's address before anything runs.

    Raises:
        pytest.UsageError: It is none.
    """
    if not any("endpoint" in getattr(item, "fixturenames", ()) for item in items):
        return
    address = options.loaded(config).settings.agent_address
    if address is not None and not hasattr(config, "workerinput"):
        from kvtest.errors import UsageError
        from kvtest.runtime.agent_address import parse_address

        try:
            parse_address(address)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs the agent's guest where the agent is one that runs already."""
    names = getattr(item, "fixturenames", ())
    if "endpoint" in names and "guest" in names:
        address = options.loaded(item.config).settings.agent_address
        if address is not None:
            pytest.skip(f"it looks into the agent's guest, and the agent at {address} runs in one of its own")
