# SPDX-License-Identifier: Apache-2.0
"""Ways to keep a little of each pod, which adds up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from kvtest.runtime.containerd import ContainerdBackend
from kvtest.runtime.direct import DirectBackend
from tests.saboteurs.registry import breaks
from tests.saboteurs.wrapper import with_wrapped_shim


@contextlib.contextmanager
def _with_each_pod(keep: Callable[[], object]) -> Iterator[None]:
    """Do something whenever a pod has ended."""
    with contextlib.ExitStack() as stack:
        for backend in (DirectBackend, ContainerdBackend):
            stack.enter_context(patch.object(backend, "close", _then(backend.close, keep)))
        yield


def _then(close: Callable[[Any], None], keep: Callable[[], object]) -> Callable[[Any], None]:
    def broken(self: Any) -> None:
        close(self)
        keep()

    return broken


@breaks("RUNTIME-REPEAT-001")
@contextlib.contextmanager
def keeps_descriptors() -> Iterator[None]:
    """A descriptor stays open of each pod."""
    with (
        open(os.devnull, "rb") as null,
        contextlib.ExitStack() as kept,
        _with_each_pod(lambda: kept.callback(os.close, os.dup(null.fileno()))),
    ):
        yield


@breaks("RUNTIME-REPEAT-001")
@contextlib.contextmanager
def keeps_memory() -> Iterator[None]:
    """Half a megabyte of each pod stays in memory."""
    kept: list[bytes] = []
    with _with_each_pod(lambda: kept.append(os.urandom(1 << 19))):
        yield


@breaks("RUNTIME-REPEAT-001")
@contextlib.contextmanager
def leaves_processes() -> Iterator[None]:
    """A process of each shim outlives it."""
    with with_wrapped_shim("setsid sleep 1000 </dev/null >/dev/null 2>&1 &"):
        yield
