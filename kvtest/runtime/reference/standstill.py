# SPDX-License-Identifier: Apache-2.0
"""A machine that hangs while it comes up, when there is no agent yet that could be asked whether it does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from kvtest.deadline import Deadline
from kvtest.errors import HostError, KvtestError
from kvtest.ownership import OwnedProcess

_LOOK_SECONDS = 1.0


@contextlib.contextmanager
def ended_at_standstill(process: OwnedProcess, seconds: float) -> Iterator[None]:
    """End a process that stands still while something is done that takes it to run.

    How long a machine takes to come up depends on what else its host does. But as long as it does come up it uses
    some processor time.

    Args:
        process: The process.
        seconds: How long it may use no processor time.

    Raises:
        HostError: It has been ended.
    """
    over, ended = threading.Event(), threading.Event()

    def watch() -> None:
        used, limit = None, Deadline(seconds)
        while not over.wait(_LOOK_SECONDS):
            now = _processor_time(process.pid)
            if now != used:
                used, limit = now, Deadline(seconds)
            elif limit.expired:
                ended.set()
                process.kill()
                return

    watcher = threading.Thread(target=watch, name="standstill", daemon=True)
    watcher.start()
    try:
        yield
    except KvtestError as error:
        if ended.is_set():
            raise HostError(f"process {process.pid} hangs: it has used no processor time for {seconds:g} s") from error
        raise
    finally:
        over.set()
        watcher.join()


def _processor_time(pid: int) -> int | None:
    """Return how long a process has run so far, in the kernel's ticks (proc(5), /proc/PID/stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
    except OSError:
        return None
    return int(fields[11]) + int(fields[12])
