# SPDX-License-Identifier: Apache-2.0
"""Guests that several tests share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kvtest.harness.factory import GuestFactory
from kvtest.harness.guest import Guest
from kvtest.vm import Configuration


class SharedGuests:
    """One guest for each kind of machine.

    Args:
        factory: Makes the guests.
    """

    def __init__(self, factory: GuestFactory) -> None:
        self._factory = factory
        self._guests: dict[tuple[Configuration, bool], Guest] = {}

    @contextlib.contextmanager
    def lend(self, configuration: Configuration, *, cold: bool) -> Iterator[Guest]:
        """Lend a guest for the time of one test.

        It is checked before it is lent: one that an earlier test broke is replaced, so that a test fails only for what
        it did itself.

        Args:
            configuration: What it is made of.
            cold: Whether it has to have booted by itself.
        """
        guest = self._guests.get((configuration, cold))
        if guest is not None and guest.broken is not None:
            self._guests.pop((configuration, cold)).close()
            guest = None
        if guest is None:
            guest = self._guests[configuration, cold] = self._factory.start(configuration, cold=cold)
        try:
            yield guest
        finally:
            guest.tidy()

    def close(self) -> None:
        """End all guests."""
        with contextlib.ExitStack() as guests:
            for guest in self._guests.values():
                guests.callback(guest.close)
        self._guests.clear()
