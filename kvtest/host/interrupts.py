# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, or the signal with which a CI system cancels a job, while a run goes on on another host."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from kvtest.errors import KvtestError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Passes the first one on to the run there, which ends in order; a second ends us at once. A context manager.

    Args:
        pass_on: Tells the run there. It is called by a thread of its own, as the main thread, which gets signals, may
            be in the middle of a conversation with that host.

    Attributes:
        came: Whether there was one.
    """

    def __init__(self, pass_on: Callable[[], None]) -> None:
        self.came = False
        self._pass_on = pass_on
        self._previous: dict[signal.Signals, Any] = {}

    def _interrupt(self, number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        self.came = True
        threading.Thread(target=self._told, name="kvtest-interrupt", daemon=True).start()

    def _told(self) -> None:
        with contextlib.suppress(KvtestError):  # whoever waits for the run is told
            self._pass_on()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # else signals are another's
            self._previous = {number: signal.signal(number, self._interrupt) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
