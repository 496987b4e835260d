# SPDX-License-Identifier: Apache-2.0
"""``delete``: remove what is left of a container whose shim is gone, or will not answer."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path

from kvtest.rpc.envelope import bytes_field, varint_field
from kvtest.runtime.reference.arguments import Invocation, start_time
from kvtest.runtime.reference.mounts import unmount
from kvtest.runtime.reference.start import answers
from kvtest.runtime.reference.state import ADDRESS_FILE, MACHINE_FILE, PID_FILE, STATE

_KILLED = 128 + signal.SIGKILL
_PATIENCE_MS = 4000


def delete(invocation: Invocation) -> bytes:
    """Return the encoded ``DeleteResponse``; harmless where nothing is left.

    The machine belongs to a keeper that ends it with the shim, so ending the shim is all that it takes.
    """
    bundle = invocation.bundle
    path = _socket(bundle)
    # containerd 1.6 runs this after an ordinary deletion too: a shim that is ending by itself has given its socket up.
    pid = _end_shim(bundle / STATE, ending=path is not None and not path.exists())
    unmount(bundle / "rootfs")
    with contextlib.suppress(OSError):
        if path is not None and not answers(path):  # a shim that serves other pods or containers keeps its own
            path.unlink()
    shutil.rmtree(bundle / STATE, ignore_errors=True)
    seconds, nanos = divmod(time.time_ns(), 10**9)
    # Written by hand (containerd, api/runtime/task/v2/shim.proto): containerd runs this at each container's end, and a
    # protobuf library would take longer to load than all the rest.
    exited_at = varint_field(1, seconds) + varint_field(2, nanos)
    return varint_field(1, pid) + varint_field(2, _KILLED) + bytes_field(3, exited_at)


def _socket(bundle: Path) -> Path | None:
    try:
        return Path((bundle / ADDRESS_FILE).read_text().strip().removeprefix("unix://"))
    except OSError:
        return None


def _end_shim(state: Path, *, ending: bool) -> int:
    """End the shim if it is there, and wait until it and what it has started are not; return its process ID.

    Args:
        state: Where the shim has written down who it is.
        ending: Whether it is about to end by itself, which it is given time for.
    """
    try:
        found = json.loads((state / PID_FILE).read_bytes())
        pid, start = int(found["pid"]), str(found["start"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    # The shim first: it would take the end of its machine for a loss, and tell.
    for process, started in [(pid, start), *_machine(state)]:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(process)
            try:
                if start_time(process) == started:  # and nobody else of that number
                    poll = select.poll()
                    poll.register(pidfd, select.POLLIN)
                    if not (ending and poll.poll(_PATIENCE_MS)):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                        poll.poll(_PATIENCE_MS)
            finally:
                os.close(pidfd)
    return pid


def _machine(state: Path) -> list[tuple[int, str]]:
    """Return the machine, as the shim has written it down."""
    try:
        found = json.loads((state / MACHINE_FILE).read_bytes())
        return [(int(found["pid"]), str(found["start"]))]
    except (OSError, ValueError, KeyError, TypeError):
        return []
