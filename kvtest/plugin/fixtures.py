# SPDX-License-Identifier: Apache-2.0
"""The fixtures of suites: ``guest``, ``vsock``, ``serial``, ``start_guest``, ``host`` and ``artifacts``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvtest.plugin.collection import following_item, guest_request, transports_of, uses
from kvtest.plugin.timeouts import suspended
from kvtest.transport import VSOCKS, Transport

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from kvtest.harness import Guest, GuestRequest, SharedGuests
    from kvtest.host.local import LocalHost
    from kvtest.plugin.session import Session
    from kvtest.serial import SerialPort
    from kvtest.vm import Configuration
    from kvtest.vsock import Vsock


@pytest.fixture
def artifacts(request: pytest.FixtureRequest) -> Path:
    """The test's artifact directory: whatever is put there is kept with the results."""
    from kvtest.plugin.session import session_of

    return session_of(request.config).artifacts(request.node)


@pytest.fixture
def host(request: pytest.FixtureRequest) -> Iterator[LocalHost]:
    """The host that guests run on: commands and functions in processes of their own."""
    from kvtest.plugin.session import session_of

    host = session_of(request.config).host
    yield host
    host.tidy()


@pytest.fixture
def guest(request: pytest.FixtureRequest, artifacts: Path, guest_kernel: str) -> Iterator[Guest]:
    """A running guest, as ``@pytest.mark.guest`` asks for it, with ``guest_kernel`` where it does not ask for one."""
    from kvtest.plugin import evidence
    from kvtest.plugin.session import session_of

    session = session_of(request.config)
    session.prepare()
    wanted = guest_request(request.node)
    with suspended():  # an image may have to be built
        configuration = _configuration(session, request.node, wanted)
    if not wanted.cold:
        session.make_template(configuration)
    if wanted.scope == "module" and not wanted.fresh:
        session.drop_ahead()
        shared: SharedGuests[Guest] = request.getfixturevalue("_guests_of_the_module")
        lent: AbstractContextManager[Guest] = shared.lend(configuration, cold=wanted.cold)
    else:
        lent = session.start(configuration, cold=wanted.cold)
    with lent as guest, evidence.gathered(request.node, guest, artifacts):
        _start_ahead(session, request.node)
        yield guest


@pytest.fixture
def start_guest(request: pytest.FixtureRequest, guest: Guest) -> Iterator[Callable[..., Guest]]:
    """Starts further guests of the kind of ``guest``, which end with the test.

    ``cid=`` is the address that one is to have over the host kernel's vhost-vsock; a free one if it is not given.
    """
    import attrs

    from kvtest.plugin.session import session_of

    session = session_of(request.config)
    with contextlib.ExitStack() as started:

        def start(*, cid: int | None = None) -> Guest:
            configuration = attrs.evolve(guest.vm.configuration, host_cid=cid)
            another = started.enter_context(session.start(configuration, cold=False))
            session.own(another)
            return another

        yield start


def _configuration(session: Session, item: pytest.Item, wanted: GuestRequest) -> Configuration:
    over = next(iter(transports_of(item) & VSOCKS), _first_vsock(session))
    return session.factory.configuration(wanted, vsock=uses(item, "vsock"), over=over)


def _first_vsock(session: Session) -> Transport:
    """Return the vsock device of guests whose tests do not say which."""
    return next((one for one in session.settings.transport if one in VSOCKS), Transport.VHOST_USER_VSOCK)


def _start_ahead(session: Session, item: pytest.Item) -> None:
    """Start the guest of the test after this one, unless one of the two measures something."""
    following = following_item(item)
    if following is None or not uses(following, "guest"):
        return
    wanted = guest_request(following)
    measured = any(test.get_closest_marker("measurement") for test in (item, following))
    # An image that is not there yet is the other test's business, and so is what is wrong with it.
    known = session.factory.knows_image(wanted.kernel, wanted.image)
    if known and not (measured or wanted.cold or (wanted.scope == "module" and not wanted.fresh)):
        session.start_ahead(_configuration(session, following, wanted))


@pytest.fixture(scope="module")
def _guests_of_the_module(request: pytest.FixtureRequest) -> Iterator[SharedGuests[Guest]]:
    """What the tests of a module share that ask for it with ``@pytest.mark.guest(scope="module")``."""
    from kvtest.harness import SharedGuests
    from kvtest.plugin.session import session_of

    session = session_of(request.config)
    shared = SharedGuests(lambda configuration, cold: session.factory.start(configuration, cold=cold), session.ledger)
    yield shared
    shared.close()


# The transports that a fixture opens are its own parameters: a project's own fixture of that name is none of ours.
@pytest.fixture(params=sorted(VSOCKS), ids=str)
def vsock(request: pytest.FixtureRequest, guest: Guest) -> Vsock:
    """The vsock of ``guest``: connect to its ports, listen for its connections."""
    assert Transport(request.param) in guest.vm.configuration.transports
    return guest.vsock


@pytest.fixture(params=[Transport.VIRTIO_SERIAL], ids=str)
def serial(request: pytest.FixtureRequest, guest: Guest) -> SerialPort:
    """The first virtio-serial port of ``guest``."""
    assert Transport(request.param) is Transport.VIRTIO_SERIAL
    return guest.serial_ports[0]
