# SPDX-License-Identifier: Apache-2.0
"""Ways to break a shim that containerd runs."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from kvtest.deadline import Deadline
from kvtest.runtime import containerd
from kvtest.runtime.backend import Plan
from kvtest.runtime.containerd import ASKED_FOR, Containerd, ContainerdBackend, program_of
from tests.saboteurs.registry import breaks


@contextlib.contextmanager
def _wrapped(script: str) -> Iterator[None]:
    """Have containerd run a script in place of the shim, which SHIM is, when the last word is COMMAND."""
    real = shutil.which("containerd-shim-runc-v2")
    create = ContainerdBackend.create
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "broken"
        program.write_text(f'#!/bin/sh\nSHIM={real}\nfor COMMAND; do :; done\n{script}\nexec $SHIM "$@"\n')
        program.chmod(0o700)

        def broken(self: ContainerdBackend, plan: Plan, deadline: Deadline) -> int:
            link = self._containerd.directory / "bin" / program_of(ASKED_FOR)
            link.unlink()
            link.symlink_to(program)
            return create(self, plan, deadline)

        with (
            patch.object(containerd, "runtime_of", lambda _installation: ASKED_FOR),
            patch.object(ContainerdBackend, "create", broken),
        ):
            yield


@breaks("RUNTIME-CLEANUP-001", "RUNTIME-RECOVER-002")
@contextlib.contextmanager
def deletes_nothing() -> Iterator[None]:
    """Delete, run by containerd, leaves the container running."""
    with _wrapped(r"""[ "$COMMAND" = delete ] && { printf '\010\001\020\211\001'; exit 0; }"""):
        yield


@breaks("RUNTIME-CLEANUP-002")
@contextlib.contextmanager
def deletes_with_another_status() -> Iterator[None]:
    """Delete, run by containerd, tells that all went well."""
    with _wrapped(r"""[ "$COMMAND" = delete ] && { $SHIM "$@" >/dev/null; printf '\010\001'; exit 0; }"""):
        yield


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
