# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the agent ring: ``endpoint``, which can be dialled many times, and ``agent``, one connection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvtest.plugin import options
from kvtest.transport import VSOCKS, Transport

if TYPE_CHECKING:
    from kvtest.harness import Guest
    from kvtest.runtime.agent import Agent, AgentEndpoint

PORT = 1024


# The transport is the fixture's own parameter, as that of `vsock` is; a test may ask for another, or for both, with
# @pytest.mark.parametrize("endpoint", [...], indirect=True).
@pytest.fixture(params=sorted(VSOCKS), ids=str)
def endpoint(request: pytest.FixtureRequest, artifacts: Path, guest_kernel: str) -> Iterator[AgentEndpoint]:
    """The agent under test: in a guest as ``@pytest.mark.guest`` asks for it, or at ``--agent-address``."""
    from kvtest.runtime.agent import AgentEndpoint
    from kvtest.runtime.agent_address import HybridAddress, SerialAddress, VsockAddress

    settings = options.loaded(request.config).settings
    guest: Guest | None = None
    if settings.agent_address is not None:
        endpoint = AgentEndpoint.of(settings.agent_address, settings.request_timeout)
    else:
        guest = request.getfixturevalue("guest")
        address: HybridAddress | SerialAddress | VsockAddress
        if Transport(request.param) is Transport.VIRTIO_SERIAL:
            address = SerialAddress(str(guest.serial_ports[0].path))
        elif Transport(request.param) is Transport.VHOST_VSOCK:
            address = VsockAddress(guest.cid, PORT)
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
    """Leave out what goes over another transport than the one of the agent's address.

    Raises:
        pytest.UsageError: The address is none.
    """
    over = {id(item): item.callspec.params["endpoint"] for item in items if _has_endpoint(item)}  # type: ignore[attr-defined]
    address = options.loaded(config).settings.agent_address if over else None
    if address is None:
        return
    from kvtest.errors import UsageError
    from kvtest.runtime.agent_address import SerialAddress, parse_address

    try:
        serial = isinstance(parse_address(address), SerialAddress)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    transport = Transport.VIRTIO_SERIAL if serial else Transport.VHOST_USER_VSOCK
    unwanted = [item for item in items if over.get(id(item), transport) != transport]
    config.hook.pytest_deselected(items=unwanted)
    left_out = set(map(id, unwanted))
    items[:] = [item for item in items if id(item) not in left_out]


def _has_endpoint(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and "endpoint" in callspec.params


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs the agent's guest where the agent is one that runs already."""
    names = getattr(item, "fixturenames", ())
    if "endpoint" in names and "guest" in names:
        address = options.loaded(item.config).settings.agent_address
        if address is not None:
            pytest.skip(f"it looks into the agent's guest, and the agent at {address} runs in one of its own")
