# SPDX-License-Identifier: Apache-2.0
"""Guests that several tests share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from kvtest.census import Ledger
from kvtest.harness.running import RunningMachine
from kvtest.vm import Configuration

M = TypeVar("M", bound=RunningMachine)


class SharedGuests(Generic[M]):
    """One guest for each kind of machine.

    Args:
        start: Starts a guest; the second argument is whether it has to boot by itself.
        ledger: Told that they outlive the test that is the first to get one.
    """

    def __init__(self, start: Callable[[Configuration, bool], M], ledger: Ledger) -> None:
        self._start = start
        self._ledger = ledger
        self._guests: dict[tuple[Configuration, bool], M] = {}

    @contextlib.contextmanager
    def lend(self, configuration: Configuration, *, cold: bool) -> Iterator[M]:
        """Lend a guest for the time of one test.

        It is checked before it is lent: one that an earlier test broke is replaced, so that a test fails only for what
        it did itself.

        Args:
            configuration: What it is made of.
            cold: Whether it has to have booted by itself.
        """
        guest = self._guests.get((configuration, cold))
        if guest is not None and guest.broken is not None:
            self._end(configuration, cold)
            guest = None
        if guest is None:
            with self._ledger.lasting((self, configuration, cold)):
                guest = self._guests[configuration, cold] = self._start(configuration, cold)
                guest.settle()  # what its device still gets from QEMU is not the first test's
        try:
            yield guest
        finally:
            guest.tidy()

    def close(self) -> None:
        """End all guests."""
        with contextlib.ExitStack() as guests:
            for configuration, cold in self._guests:
                guests.callback(self._end, configuration, cold)

    def _end(self, configuration: Configuration, cold: bool) -> None:
        self._ledger.release((self, configuration, cold))
        self._guests.pop((configuration, cold)).close()
