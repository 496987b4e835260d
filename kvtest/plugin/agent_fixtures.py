# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the agent ring: ``endpoint``, which can be dialled many times, and ``agent``, one connection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvtest.plugin import options
from kvtest.plugin.collection import NOT_APPLICABLE, guest_request, uses
from kvtest.transport import VSOCKS, Transport

if TYPE_CHECKING:
    from kvtest.harness import Guest, RunningMachine, SharedGuests
    from kvtest.runtime.agent import Agent, AgentEndpoint
    from kvtest.runtime.agent_address import AgentAddress
    from kvtest.runtime.agent_machine import AgentMachine
    from kvtest.runtime.agent_place import AgentPlace

PORT = 1024


# The transport is the fixture's own parameter, as that of `vsock` is; a test may ask for another, or for both, with
# @pytest.mark.parametrize("endpoint", [...], indirect=True).
@pytest.fixture(params=sorted(VSOCKS), ids=str)
def endpoint(request: pytest.FixtureRequest, artifacts: Path, guest_kernel: str) -> Iterator[AgentEndpoint]:
    """The agent under test, where the settings say that it is, in a guest as ``@pytest.mark.guest`` asks for it."""
    from kvtest.runtime.agent import AgentEndpoint
    from kvtest.runtime.agent_place import AgentPlace

    settings, transport, place = options.loaded(request.config).settings, Transport(request.param), _place(request.node)
    machine: RunningMachine | None = None
    with contextlib.ExitStack() as stack:
        if place is AgentPlace.ADDRESS:
            assert settings.agent_address is not None
            endpoint = AgentEndpoint.of(settings.agent_address, settings.request_timeout).in_its_version()
        elif place.bare:
            machine = booted = stack.enter_context(_booted(request, artifacts, transport))
            endpoint = booted.over(transport)
        else:
            machine = guest = request.getfixturevalue("guest")
            endpoint = AgentEndpoint(_address(guest, transport), settings.request_timeout).in_its_version()
        yield endpoint
        if endpoint.created and (machine is None or machine.broken is None):
            endpoint.remove_all()


def _address(guest: Guest, transport: Transport) -> AgentAddress:
    from kvtest.runtime.agent_address import SerialAddress, in_machine

    if transport is Transport.VIRTIO_SERIAL:
        return SerialAddress(str(guest.serial_ports[0].path))
    return in_machine(guest.vm, PORT)


@contextlib.contextmanager
def _booted(request: pytest.FixtureRequest, artifacts: Path, transport: Transport) -> Iterator[AgentMachine]:
    """Have a machine with nothing but the agent in it: that of the module, or one of the test's own."""
    from kvtest.plugin import evidence
    from kvtest.plugin.session import session_of
    from kvtest.plugin.timeouts import suspended

    session, wanted = session_of(request.config), guest_request(request.node)
    session.drop_ahead()
    over = transport if transport in VSOCKS else next(iter(VSOCKS & {*session.settings.transport}), None)
    with suspended():  # an image may have to be built
        configuration = session.agents.configuration(wanted, over or Transport.VHOST_USER_VSOCK)
    if wanted.scope == "module" and not wanted.fresh:
        shared: SharedGuests[AgentMachine] = request.getfixturevalue("_agents_of_the_module")
        lent: contextlib.AbstractContextManager[AgentMachine] = shared.lend(configuration, cold=True)
    else:
        lent = session.agents.boot(configuration)
    with lent as machine, evidence.gathered(request.node, machine, artifacts):
        yield machine


@pytest.fixture(scope="module")
def _agents_of_the_module(request: pytest.FixtureRequest) -> Iterator[SharedGuests[AgentMachine]]:
    """The machines with nothing but an agent in them that the tests of a module share."""
    from kvtest.harness import SharedGuests
    from kvtest.plugin.session import session_of

    session = session_of(request.config)
    shared = SharedGuests(lambda configuration, _: session.agents.boot(configuration), session.ledger)
    yield shared
    shared.close()


@pytest.fixture
def agent(endpoint: AgentEndpoint) -> Iterator[Agent]:
    """A connection to the agent under test."""
    with endpoint.connect() as agent:
        yield agent


@pytest.fixture
def agent_machine(request: pytest.FixtureRequest, endpoint: AgentEndpoint) -> RunningMachine:
    """The machine that the agent under test runs in, to be paused or killed, or dialled at other ports."""
    from kvtest.plugin.evidence import guest_of

    machine = guest_of(request.node)
    if machine is None:
        pytest.skip(f"it needs the agent's machine, and the agent at {endpoint.address} runs in one of its own")
    return machine


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what goes over a transport on which the agent under test does not listen.

    Raises:
        pytest.UsageError: The settings contradict each other, or the agent's address is none.
    """
    over = {id(item): item.callspec.params["endpoint"] for item in items if _has_endpoint(item)}  # type: ignore[attr-defined]
    if not over:
        return
    from kvtest.errors import UsageError

    try:
        possible, reason = _possible(config)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    unwanted = [item for item in items if id(item) in over and Transport(over[id(item)]) not in possible]
    if not unwanted:
        return
    for item in unwanted:
        item.stash[NOT_APPLICABLE] = reason
    config.hook.pytest_deselected(items=unwanted)
    left_out = set(map(id, unwanted))
    items[:] = [item for item in items if id(item) not in left_out]


def _possible(config: pytest.Config) -> tuple[set[Transport], str]:
    """Return over which transports the agent under test can be dialled, and why over no other."""
    from kvtest.runtime.agent_address import SerialAddress, parse_address
    from kvtest.runtime.agent_place import AgentPlace, agent_place

    settings = options.loaded(config).settings
    place = agent_place(settings)
    if place is AgentPlace.WHOLE:
        return set(VSOCKS), "the agent of a whole guest is dialled over vsock: Kata's listens on nothing else since 2.0"
    if settings.agent_address is None:
        return set(Transport), ""
    serial = isinstance(parse_address(settings.agent_address), SerialAddress)
    reason = f"the agent under test is at {settings.agent_address}"
    return {Transport.VIRTIO_SERIAL if serial else Transport.VHOST_USER_VSOCK}, reason


def _has_endpoint(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and "endpoint" in callspec.params


def _place(item: pytest.Item) -> AgentPlace:
    from kvtest.runtime.agent_place import agent_place

    return agent_place(options.loaded(item.config).settings, guest_request(item).image)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs our control daemon in the agent's guest where there is none."""
    if not uses(item, "guest") or not (uses(item, "endpoint") or guest_request(item).image is not None):
        return
    from kvtest.runtime.agent_place import AgentPlace

    place = _place(item)
    if place is AgentPlace.INIT:
        pytest.skip("it looks into the agent's guest, and where the agent is init nothing of kvtest's runs in it")
    if not uses(item, "endpoint"):
        return
    if place is AgentPlace.WHOLE:
        pytest.skip("it looks into the agent's guest, and nothing of kvtest's runs in a whole guest")
    if place is AgentPlace.ADDRESS:
        address = options.loaded(item.config).settings.agent_address
        pytest.skip(f"it looks into the agent's guest, and the agent at {address} runs in one of its own")
