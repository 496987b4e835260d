# SPDX-License-Identifier: Apache-2.0
"""This machine as a host: commands and functions in a process other than pytest's."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from kvtest.control import GuestControl
from kvtest.ownership import OwnedProcess
from kvtest.resources import package_directory


class LocalHost(GuestControl):
    """This machine, with the same commands, functions and files that a guest has.

    Everything runs below one process, which ends with us; a test that needs a second process on the host, to compete
    for a socket or to be killed, starts it here. Only vsock has no place here: a machine is not its own guest.

    Args:
        artifacts: Directory that gets what the process writes.
        timeout: Seconds for a request that is given no deadline.
    """

    def __init__(self, artifacts: Path, timeout: float = 30.0) -> None:
        artifacts.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = OwnedProcess(
                [sys.executable, "-m", "kvtest.guest.daemon", str(theirs.fileno())],
                output=artifacts / f"host-{os.getpid()}.log",
                environment={**os.environ, "PYTHONPATH": str(package_directory().parent)},
                pass_fds=[theirs.fileno()],
            )
        super().__init__(ours, timeout, name="host")

    def close(self) -> None:
        """End the process and all that it started."""
        super().close()
        self._process.close()
