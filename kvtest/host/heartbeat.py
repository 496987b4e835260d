# SPDX-License-Identifier: Apache-2.0
"""Whether a machine that works for a long time is still there."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from kvtest.errors import DeadlineExceededError, KvtestError
from kvtest.harness import Guest


class Heartbeat:
    """Asks a machine again and again for a sign of life, and ends it when there is none; use as a context manager.

    Whoever waits for the machine learns of its end.

    Args:
        guest: The machine.
        silence: Seconds without an answer after which it is taken for lost.

    Attributes:
        lost: Why it was ended, if it was.
    """

    def __init__(self, guest: Guest, silence: float) -> None:
        self.lost: str | None = None
        self._guest = guest
        self._silence = silence
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="kvtest-heartbeat", daemon=True)

    def _ask(self) -> None:
        while not self._closing.wait(self._silence / 6):
            try:
                self._guest.control.ping(self._silence)
            except DeadlineExceededError:
                if self._closing.is_set():
                    return
                self.lost = f"it has said nothing for {self._silence:.0f} s"
                self._guest.vm.kill()
                return
            except KvtestError:  # it has ended, which others notice too
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()  # it may be waiting for an answer, which nobody else is to wait for
