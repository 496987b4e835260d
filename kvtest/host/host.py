# SPDX-License-Identifier: Apache-2.0
"""What a host besides this machine is to ``kvtest run``: it runs suites, and its results come here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kvtest.host.interrupts import Interrupts


class Host(ABC):
    """A host that is up and has all that kvtest needs there; use as a context manager, which ends with it.

    Attributes:
        interrupts: Whether the run was interrupted; ``None`` before there was one.
    """

    interrupts: Interrupts | None = None

    @abstractmethod
    def run(self, what: Sequence[str], options: Sequence[str], said: Callable[[bytes], None]) -> int:
        """Run ``kvtest run`` there. The first Ctrl-C ends it in order.

        Args:
            what: Rings, files or tests, as they are called there; all rings if empty.
            options: Its options.
            said: Told what it prints, as it comes.

        Returns:
            Its exit status.

        Raises:
            HostLostError: The host is gone, or cannot be reached any more.
        """

    @abstractmethod
    def fetch(self, directory: Path) -> None:
        """Bring what is not here yet of the results of the run, as far as there are any.

        Args:
            directory: The results directory, where they go.

        Raises:
            HostLostError: The host is gone, or cannot be reached any more.
        """

    @abstractmethod
    def close(self) -> None:
        """End what runs there, and take away what was there for this run only."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
