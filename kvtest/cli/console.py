# SPDX-License-Identifier: Apache-2.0
"""How commands speak: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from rich.console import Console

_WIDE = 500  # who reads from a pipe wants whole names

output = Console(soft_wrap=True, width=None if sys.stdout is not None and sys.stdout.isatty() else _WIDE)
errors = Console(stderr=True)


@contextlib.contextmanager
def progress(step: str) -> Iterator[None]:
    """Show what is being done while it lasts, and for how long it lasted."""
    begin = time.monotonic()
    if errors.is_terminal:
        errors.print(f"[dim]{step} …[/dim]")
    yield
    errors.print(f"{step}: {time.monotonic() - begin:.1f} s", markup=False, highlight=False)
