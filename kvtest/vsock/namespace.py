# SPDX-License-Identifier: Apache-2.0
"""A thread in a network namespace of its own (network_namespaces(7)).

What is opened in it belongs to that namespace for good, and the namespace lasts as long as the thread or anything that
was opened in it. Nothing of it is left if this process dies.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from kvtest.errors import HostError

R = TypeVar("R")
_CLONE_NEWNET = 0x4000_0000  # linux/sched.h
_library = ctypes.CDLL(None, use_errno=True)


def unshare_network() -> None:
    """Put the calling thread, and no other, into a new network namespace.

    Raises:
        HostError: That is not allowed here.
    """
    if _library.unshare(_CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise HostError(f"could not make a network namespace: {reason}", hint="run as root")


class NetworkNamespace:
    """A thread that begins in a new network namespace.

    Raises:
        HostError: There can be none.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "kvtest-namespace")
        try:
            self.run(unshare_network)
        except BaseException:
            self.close()
            raise

    def run(self, function: Callable[[], R]) -> R:
        """Call a function in the thread, and return what it returns."""
        return self._thread.submit(function).result()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def __enter__(self) -> NetworkNamespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
