# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvtest.harness import Guest, GuestFactory, GuestRequest
from kvtest.settings import Settings
from tests.sshd import Sshd, sshd


@pytest.fixture
def factory(settings: Settings, tmp_path: Path) -> GuestFactory:
    """Makes guests whose files are in the test's directory."""
    return GuestFactory(settings, tmp_path / "guests")


@pytest.fixture
def boot(factory: GuestFactory) -> Iterator[Callable[..., Guest]]:
    """Boot a guest; it ends with the test."""
    guests: list[Guest] = []

    def boot(**request: object) -> Guest:
        guests.append(factory.boot(factory.configuration(GuestRequest().updated(request))))
        return guests[-1]

    yield boot
    for guest in guests:
        guest.close()


@pytest.fixture
def clone(factory: GuestFactory) -> Iterator[Callable[..., Guest]]:
    """Clone a guest; it ends with the test."""
    with contextlib.ExitStack() as guests:
        yield lambda **request: guests.enter_context(
            factory.start(factory.configuration(GuestRequest().updated(request)))
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A machine that is reached over SSH, and that nothing was brought to."""
    with sshd(tmp_path_factory.mktemp("server") / "sshd") as server:
        yield server
