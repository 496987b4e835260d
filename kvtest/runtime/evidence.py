# SPDX-License-Identifier: Apache-2.0
"""What tells of a pod in which something went wrong: its events, and what its shim, its machine and containerd say."""

from __future__ import annotations

import contextlib
import os
import stat
from glob import glob
from pathlib import Path

from kvtest.runtime.pod import Pod

_MOST = 1 << 20  # bytes of a file, from its end


def keep(pod: Pod, target: Path) -> None:
    """Copy what there is of a pod into a directory, which is made.

    Args:
        pod: The pod; parts of it may be gone.
        target: The directory.
    """
    target.mkdir(parents=True, exist_ok=True)
    events = pod.events.of()
    begin = events[0].at if events else 0.0
    (target / "events.txt").write_text("".join(f"{event.at - begin:8.3f} s  {event}\n" for event in events))
    for pattern in pod.logs:
        for path in map(Path, sorted(glob(pattern))):
            with contextlib.suppress(OSError):  # gone since, or not for us
                _copy(path, target / f"{path.parent.name}-{path.name}")


def _copy(source: Path, target: Path) -> None:
    # A fifo, as containerd gives shims for their logs, would be waited at, and emptied.
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_size:
            stream.seek(max(0, status.st_size - _MOST))
            target.write_bytes(stream.read(_MOST))
