# SPDX-License-Identifier: Apache-2.0
"""Ways to break what containerd and the shims that it runs have together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest.mock import patch

from kvtest.runtime.containerd import Containerd
from tests.saboteurs.registry import breaks


@breaks("RUNTIME-RECOVER-001")
@contextlib.contextmanager
def dies_with_containerd() -> Iterator[None]:
    """A shim does not outlive the containerd that has started it."""
    kill = Containerd.kill

    def both(self: Containerd) -> None:
        shims = [take.__self__.shim for take in self._subscribers.values()]  # type: ignore[attr-defined]
        kill(self)
        for shim in shims:
            shim.kill()
            shim.wait(10.0)

    with patch.object(Containerd, "kill", both):
        yield
