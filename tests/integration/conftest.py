# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvtest.harness import Guest, GuestFactory, GuestRequest
from kvtest.settings import Settings


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
