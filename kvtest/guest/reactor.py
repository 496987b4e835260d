# SPDX-License-Identifier: Apache-2.0
"""One thread that waits for descriptors, and buffers what they cannot take yet."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable

_CHUNK = 1 << 16


class Reactor:
    """A selector with callbacks."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._callbacks: dict[tuple[int, int], Callable[[], None]] = {}

    def watch(self, descriptor: int, event: int, callback: Callable[[], None] | None) -> None:
        """Call back whenever a descriptor is ready, until told otherwise.

        Args:
            descriptor: The descriptor.
            event: ``selectors.EVENT_READ`` or ``EVENT_WRITE``.
            callback: What to call; ``None`` ends it.
        """
        if callback is None:
            self._callbacks.pop((descriptor, event), None)
        else:
            self._callbacks[descriptor, event] = callback
        events = sum(
            kind for kind in (selectors.EVENT_READ, selectors.EVENT_WRITE) if (descriptor, kind) in self._callbacks
        )
        registered = descriptor in self._selector.get_map()
        if events and registered:
            self._selector.modify(descriptor, events)
        elif events:
            self._selector.register(descriptor, events)
        elif registered:
            self._selector.unregister(descriptor)

    def forget(self, descriptor: int) -> None:
        """Stop watching a descriptor that is about to be closed."""
        for event in (selectors.EVENT_READ, selectors.EVENT_WRITE):
            self.watch(descriptor, event, None)

    def turn(self, timeout: float | None) -> None:
        """Wait for what comes next, at most ``timeout`` seconds, and call back."""
        for key, events in self._selector.select(timeout):
            for event in (selectors.EVENT_READ, selectors.EVENT_WRITE):
                callback = self._callbacks.get((key.fd, event))
                if events & event and callback is not None:
                    callback()

    def close(self) -> None:
        """Give the selector's descriptor back."""
        self._selector.close()


class Writer:
    """Writes to a descriptor that does not block, and keeps what it cannot take yet.

    Args:
        reactor: Tells when there is room again.
        descriptor: Where to write to; it is made non-blocking.
        on_error: Called once when writing fails.
    """

    def __init__(self, reactor: Reactor, descriptor: int, on_error: Callable[[OSError], None]) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._on_error = on_error
        self._buffer = bytearray()
        self._on_drained: list[Callable[[], None]] = []
        os.set_blocking(descriptor, False)

    @property
    def buffered(self) -> int:
        """Bytes that could not be written yet."""
        return len(self._buffer)

    def write(self, data: bytes, drained: Callable[[], None] | None = None) -> None:
        """Write bytes, after those before them.

        Args:
            data: The bytes.
            drained: Called once they have been taken.
        """
        self._buffer += data
        if drained is not None:
            self._on_drained.append(drained)
        self._flush()

    def discard(self) -> None:
        """Forget what could not be written yet: nobody waits for it any more."""
        self._buffer.clear()
        self._on_drained.clear()
        self._reactor.watch(self._descriptor, selectors.EVENT_WRITE, None)

    def _flush(self) -> None:
        try:
            while self._buffer:
                written = os.write(self._descriptor, self._buffer[: _CHUNK * 4])
                del self._buffer[:written]
        except BlockingIOError:
            self._reactor.watch(self._descriptor, selectors.EVENT_WRITE, self._flush)
            return
        except OSError as error:
            self._buffer.clear()
            self._reactor.watch(self._descriptor, selectors.EVENT_WRITE, None)
            self._on_error(error)
            return
        self._reactor.watch(self._descriptor, selectors.EVENT_WRITE, None)
        waiting, self._on_drained = self._on_drained, []
        for drained in waiting:
            drained()
