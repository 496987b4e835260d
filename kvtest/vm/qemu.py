# SPDX-License-Identifier: Apache-2.0
"""The QEMU binary: where it is and whether it will do."""

from __future__ import annotations

import functools
import os
import re
import shutil

from attrs import frozen

from kvtest.errors import DeadlineExceededError, HostError, MissingToolError
from kvtest.ownership import run

OLDEST_VERSION = (7, 2)
_INSTALL = "apt-get install qemu-system-x86 (Debian, Ubuntu), dnf install qemu-system-x86-core (Fedora)"


@frozen
class QEMU:
    """A usable QEMU.

    Args:
        path: The binary.
        version: Its version, such as ``7.2.22``.
    """

    path: str
    version: str

    @classmethod
    def find(cls, name: str = "qemu-system-x86_64") -> QEMU:
        """Look the binary up and ask its version.

        Args:
            name: A name on ``PATH`` or a path.

        Raises:
            MissingToolError: It is absent, or older than 7.2.
            HostError: It does not start.
        """
        path = shutil.which(name)
        if path is None:
            reason = "is not executable" if os.path.exists(name) else "was not found"
            raise MissingToolError(f"QEMU ({name}) {reason}", hint=_INSTALL)
        status = os.stat(path)
        return _ask(path, status.st_mtime_ns)


@functools.cache
def _ask(path: str, _modified: int) -> QEMU:
    try:
        answer = run([path, "-version"], deadline=30.0)
    except (HostError, DeadlineExceededError) as error:
        raise HostError(f"{path} -version failed: {error.message}", hint="is it a QEMU system emulator?") from error
    if answer.status != 0:
        said = f"exit status {answer.status}: {answer.stderr.strip()[:200]}"
        raise HostError(f"{path} -version failed: {said}", hint="is it a QEMU system emulator?")
    text = answer.stdout
    match = re.search(r"version (\d+)\.(\d+)(\.\d+)?", text)
    if match is None:
        raise HostError(f"{path} -version printed {text[:80]!r}", hint="is it a QEMU system emulator?")
    if (int(match[1]), int(match[2])) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise MissingToolError(f"{path} is QEMU {match[1]}.{match[2]}, kvtest needs {oldest} or newer", hint=_INSTALL)
    return QEMU(path=path, version=match[1] + "." + match[2] + (match[3] or ""))
