# SPDX-License-Identifier: Apache-2.0
"""Why a machine did not become ready: the earliest cause that left a trace."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from kvtest.errors import BootError, DeadlineExceededError
from kvtest.ownership import OwnedProcess
from kvtest.vm.console import Console

_INIT_DEATH = re.compile(r"Attempted to kill init! exitcode=0x([0-9a-f]{8})")


def boot_failure(name: str, error: Exception, console: Console, process: OwnedProcess, artifacts: Path) -> BootError:
    """Return the error that tells why.

    Args:
        name: The machine's name.
        error: What ended the waiting.
        console: Its console.
        process: QEMU.
        artifacts: Where its files are.
    """
    where = f"see {artifacts}"
    if (reason := console.init_failure()) is not None:
        return BootError(f"{name} did not boot: its init died: {reason}", hint=with_console(where, console))
    if (reason := console.panic()) is not None:
        message = f"{name} did not boot: kernel panic: {reason}{end_of_init(reason)}"
        return BootError(message, hint=with_console(where, console))
    if not process.running:
        said = process.tail() or "it printed nothing"
        if process.status == 0:  # we let it end where it would start again
            said = f"the guest was reset, or has powered off; {said}"
            where = f"memory that is too small for the initrd is one reason (--memory); {where}"
        if process.status == -signal.SIGBUS:
            where = f"the file of its memory has no room to grow (df); {where}"
        if console.size:
            where = with_console(where, console)
        return BootError(f"{name} did not boot: QEMU ended ({process.ending}): {said}", hint=where)
    if isinstance(error, DeadlineExceededError):
        return BootError(f"{name} did not boot: {error.message}", hint=with_console(where, console))
    return BootError(f"{name} did not boot: {error}", hint=with_console(where, console))


def end_of_machine(console: Console, process: OwnedProcess) -> str:
    """Return in one line how a machine has ended that nobody asked to.

    Args:
        console: Its console.
        process: QEMU.
    """
    reason = console.init_failure() or console.panic()
    if reason:
        return f"the guest panicked: {reason}{end_of_init(reason)}"
    return f"QEMU ended ({process.ending})"


def end_of_init(panic: str) -> str:
    """Return what a panic tells of the end of the first process, in words; nothing if it is about something else."""
    found = _INIT_DEATH.search(panic)
    if found is None:
        return ""
    code = os.waitstatus_to_exitcode(int(found[1], 16))
    ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
    return f" (the first process {ending})"


def with_console(where: str, console: Console) -> str:
    """Return where evidence is, and how the console ends.

    Args:
        where: Where it is.
        console: The console.
    """
    indented = "\n".join(f"    | {line}" for line in console.tail().splitlines())
    return f"{where}; the console ends with\n{indented}"
