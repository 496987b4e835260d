# SPDX-License-Identifier: Apache-2.0
"""One point in time that everything below a call has to keep.

A :class:`Deadline` is made once, at the edge, and handed down. Whoever gives up raises what :meth:`Deadline.exceeded`
returns, so that every timeout tells what was awaited, for how long, and the last thing that was seen.
"""

from __future__ import annotations

import os
import time

from kvtest.errors import DeadlineExceededError

SLOWNESS = "_KVTEST_SLOWNESS"
"""The variable that says how many times longer everything takes on a machine that is emulated; every deadline of a
process there, and of what it starts, comes as much later."""
_FACTOR = float(os.environ.get(SLOWNESS, "1"))


def slowness() -> str | None:
    """Return what has to be known of the deadlines of this process, also those that a requirement sets, if anything."""
    return None if _FACTOR == 1 else f"each came {_FACTOR:g} times later, as this machine is emulated"


class Deadline:
    """A moment on the monotonic clock.

    Args:
        seconds: Time from now until the deadline, where a machine is not emulated; ``None`` means that it never comes.
    """

    __slots__ = ("_end", "_start")

    def __init__(self, seconds: float | None) -> None:
        self._start = time.monotonic()
        self._end = None if seconds is None else self._start + seconds * _FACTOR

    @classmethod
    def of(cls, value: Deadline | float | None) -> Deadline:
        """Return ``value`` as a deadline: one passes through, a number counts from now."""
        return value if isinstance(value, Deadline) else cls(value)

    @property
    def elapsed(self) -> float:
        """Seconds since the deadline was made."""
        return time.monotonic() - self._start

    @property
    def remaining(self) -> float | None:
        """Seconds left, never negative; ``None`` where there is no end. Fits ``settimeout`` and ``join``."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    @property
    def remaining_ms(self) -> int | None:
        """Milliseconds left, rounded up. Fits ``poll``."""
        left = self.remaining
        return None if left is None else int(left * 1000 + 0.999)

    @property
    def expired(self) -> bool:
        """Whether the moment has passed."""
        return self._end is not None and time.monotonic() >= self._end

    def extend(self, seconds: float) -> None:
        """Move the moment, for time that was spent on what it is not the deadline of."""
        if self._end is not None:
            self._start += seconds
            self._end += seconds

    def within(self, seconds: float) -> Deadline:
        """Return the earlier of this deadline and ``seconds`` from now."""
        earlier = Deadline(seconds)
        if self._end is not None and earlier._end is not None:
            earlier._end = min(earlier._end, max(self._end, earlier._start))
        return earlier

    def exceeded(self, awaited: str, evidence: str | None = None) -> DeadlineExceededError:
        """Return the error of whoever gives up waiting.

        Args:
            awaited: What did not happen, such as ``the control daemon to answer``.
            evidence: The last thing that was seen, if anything was.
        """
        seen = f"; last seen: {evidence}" if evidence else ""
        return DeadlineExceededError(f"waited {self.elapsed:.1f} s for {awaited}{seen}")

    def check(self, awaited: str, evidence: str | None = None) -> None:
        """Raise :meth:`exceeded` if the moment has passed."""
        if self.expired:
            raise self.exceeded(awaited, evidence)

    def __repr__(self) -> str:
        left = self.remaining
        return "Deadline(never)" if left is None else f"Deadline({left:.3f} s left)"
