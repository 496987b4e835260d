# SPDX-License-Identifier: Apache-2.0
"""How long work tells what it is doing, without knowing who listens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

# Called with what is being done; the context lasts as long as the work.
Progress = Callable[[str], AbstractContextManager[None]]


@contextlib.contextmanager
def silent(_step: str) -> Iterator[None]:
    """Tell nobody."""
    yield
