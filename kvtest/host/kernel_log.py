# SPDX-License-Identifier: Apache-2.0
"""What the host's kernel complains of, from its log (dmesg(1), Documentation/ABI/testing/dev-kmsg of Linux)."""

from __future__ import annotations

import os
import re
from pathlib import Path

DEVICE = Path("/dev/kmsg")
WATCHED = "_KVTEST_KERNEL_LOG"
"""The variable that names the kernel's log where it is to be watched."""
_RECORD = 1 << 13  # bytes; the kernel's own limit of a record is below it
_FACILITY_SHIFT = 3
# How the kernel begins to tell that something is wrong with itself.
_COMPLAINT = (  # compiled when it is needed: every run of pytest imports this
    r"BUG: |Oops: |WARNING: |INFO: task .* blocked for more than|general protection fault|kernel BUG at|"
    r"Kernel panic|watchdog: BUG|rcu: INFO: .* (detected|self-detected) stall|unregister_netdevice: waiting for"
)


class KernelLog:
    """The kernel's log, from now on.

    Args:
        device: Where to read it.

    Raises:
        OSError: It cannot be read.
    """

    def __init__(self, device: Path = DEVICE) -> None:
        self._descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def complaints(self) -> list[str]:
        """Return the lines since the last time in which the kernel says that something is wrong with itself."""
        found: list[str] = []
        while True:
            try:
                record = os.read(self._descriptor, _RECORD)
            except BlockingIOError:
                return found
            except BrokenPipeError:  # records were overwritten before they were read; the next is there
                continue
            if not record:
                return found
            head, _, text = record.decode(errors="replace").partition(";")
            line = text.partition("\n")[0]
            # Of facility 0 is what the kernel itself has written; everybody may write as another.
            if int(head.partition(",")[0]) >> _FACILITY_SHIFT == 0 and re.search(_COMPLAINT, line):
                found.append(line)

    def close(self) -> None:
        """Read no more."""
        os.close(self._descriptor)
