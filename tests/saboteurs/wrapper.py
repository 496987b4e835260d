# SPDX-License-Identifier: Apache-2.0
"""A script that runs in place of a shim, whoever runs that."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from kvtest.deadline import Deadline
from kvtest.runtime import containerd, shim
from kvtest.runtime.backend import Plan
from kvtest.runtime.containerd import ContainerdBackend
from kvtest.runtime.containerd_process import ASKED_FOR, program_of
from kvtest.runtime.installation import find_program

RUNC = "containerd-shim-runc-v2"
REFERENCE = "containerd-shim-kvtest-v2"


@contextlib.contextmanager
def with_wrapped_shim(script: str, name: str = RUNC) -> Iterator[None]:
    """Run a script in place of the shim: SHIM is the real one, ID the container, COMMAND start or delete.

    Args:
        script: The script, after which the real one runs if it has not ended.
        name: The program of the real one.
    """
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "containerd-shim-broken-v2"
        head = f"#!/bin/sh\nSHIM={find_program(name)}\n"
        head += 'for COMMAND; do test "$LAST" = -id && ID=$COMMAND; LAST=$COMMAND; done\n'
        program.write_text(f'{head}{script}\nexec $SHIM "$@"\n')
        program.chmod(0o700)
        with _run_by_kvtest(program), _run_by_containerd(program):
            yield


def _run_by_kvtest(program: Path) -> contextlib.AbstractContextManager[object]:
    command = shim.Place.command

    def broken(self: shim.Place, *words: str) -> list[str | Path]:
        return [program, *command(self, *words)[1:]]

    return patch.object(shim.Place, "command", broken)


@contextlib.contextmanager
def _run_by_containerd(program: Path) -> Iterator[None]:
    """Have containerd, which lives longer and looks for a shim once, find a link that leads to the program."""
    create = ContainerdBackend.create

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
