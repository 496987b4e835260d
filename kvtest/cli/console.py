# SPDX-License-Identifier: Apache-2.0
"""How commands speak: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from rich.console import Console

_WIDE = 500  # who reads from a pipe wants whole names
_LONG_SECONDS = 10.0

output = Console(soft_wrap=True, width=None if sys.stdout is not None and sys.stdout.isatty() else _WIDE)
errors = Console(stderr=True)


@contextlib.contextmanager
def progress(step: str) -> Iterator[None]:
    """Show what is being done while it lasts, and for how long it lasted; in a log only if it lasts long."""
    begin = time.monotonic()
    if errors.is_terminal:
        _announce(step)
    later = threading.Timer(_LONG_SECONDS, _announce, [step])
    later.daemon = True
    if not errors.is_terminal:
        later.start()
    try:
        yield
    finally:
        later.cancel()
    errors.print(f"{step}: {time.monotonic() - begin:.1f} s", markup=False, highlight=False)


def _announce(step: str) -> None:
    errors.print(f"{step} …", style="dim", markup=False, highlight=False)
