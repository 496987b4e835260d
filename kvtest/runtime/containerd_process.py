# SPDX-License-Identifier: Apache-2.0
"""The process of a containerd of our own: how it is configured, and what it says when it does not start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import NoReturn

from kvtest.deadline import Deadline
from kvtest.errors import ContainerdError, KvtestError, MissingToolError
from kvtest.ownership import MountNamespace, OwnedProcess, wait_readable
from kvtest.runtime.installation import Installation, find_program

_CURE = "apt-get install --no-install-recommends containerd"
ASKED_FOR = "io.containerd.kvtest-asked-for.v2"
"""What containerd calls a runtime whose shim is not where it would look."""
BUNDLES = "state/io.containerd.runtime.v2.task"
"""Where containerd has the bundles of each namespace, in its directory."""
STARTING_SECONDS = 20.0
_ENDING_SECONDS = 10.0
_TAIL = 15  # lines of its log
_IN_ORDER = " level=info "  # what says nothing of a failure
_BY_HAND = "--root /tmp/c/root --state /tmp/c/state --address /tmp/c/socket"
_CONFIGURATION = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
oom_score = 0
disabled_plugins = ["io.containerd.grpc.v1.cri"]

[grpc]
address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
"""


def find_containerd() -> Path:
    """Return where containerd is.

    Raises:
        MissingToolError: It is nowhere.
    """
    program = find_program("containerd")
    if program is None:
        raise MissingToolError("there is no containerd", hint=_CURE)
    return Path(program)


def program_of(runtime: str) -> str:
    """Return the program that containerd looks for (runtime/v2/README.md of containerd)."""
    kind, version = runtime.split(".")[-2:]
    return f"containerd-shim-{kind}-{version}"


def _environment(directory: Path, installation: Installation) -> dict[str, str]:
    """Return what has containerd find the shim of a runtime, wherever it is, and the shim what it needs."""
    directory.mkdir()
    (directory / program_of(ASKED_FOR)).symlink_to(installation.shim)
    environment = installation.environment
    return {**environment, "PATH": f"{environment['PATH']}:{directory}"}


class ContainerdProcess:
    """A containerd, which can be started again when it has ended: it finds what it had.

    Args:
        directory: Where it keeps everything; its path has to be short.
        program: The program.
        installation: The runtime whose shim it is to find by name; those on ``PATH`` if ``None``.
        mounts: The mount namespace that it and its shims run in; ours if ``None``.
    """

    def __init__(
        self,
        directory: Path,
        program: Path,
        installation: Installation | None = None,
        mounts: MountNamespace | None = None,
    ) -> None:
        self.directory = directory
        self.socket = directory / "containerd.sock"
        self.log = directory / "containerd.log"
        self._program = program
        self._mounts = mounts
        self._environment = _environment(directory / "bin", installation) if installation is not None else {}
        (directory / "config.toml").write_text(_CONFIGURATION.format(directory=directory, socket=self.socket))

    def start(self, deadline: Deadline) -> None:
        """Start it, and wait until it says that it is ready (sd_notify(3)).

        Args:
            deadline: When to give up.

        Raises:
            ContainerdError: It did not start; the end of its log is in the message.
            MissingToolError: It is not a program.
        """
        notify = self.directory / "notify"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(notify))
            self.process = OwnedProcess(
                [self._program, "--config", self.directory / "config.toml"],
                output=self.log,
                environment={**os.environ, **self._environment, "NOTIFY_SOCKET": str(notify)},
                mounts=self._mounts,
            )
            try:
                wait_readable(notified, self.process, deadline, "containerd to be ready")
            except (KvtestError, ChildProcessError) as error:
                self.refuse(error)

    def refuse(self, error: KvtestError | ChildProcessError) -> NoReturn:
        """End it, and say that it did not start.

        Args:
            error: Why.

        Raises:
            ContainerdError: Always.
        """
        lines = self.process.tail(_TAIL).splitlines()
        tail = "\n".join([line for line in lines if _IN_ORDER not in line] or lines)
        self.close()
        said = error.message.partition("; last seen")[0] if isinstance(error, KvtestError) else f"it ended: {error}"
        raise ContainerdError(
            f"{self._program} did not start: {said}; its log ends with:\n{tail}",
            hint=f"run it by hand: {self._program} {_BY_HAND}\n        or leave out what needs it: -k 'not containerd'",
        ) from error

    def kill(self) -> None:
        """End it at once, and leave to themselves the shims that it has started."""
        self.process.kill()
        self.process.wait(_ENDING_SECONDS)

    def close(self) -> None:
        """End it."""
        self.process.kill(signal.SIGTERM)
        with contextlib.suppress(KvtestError):
            self.process.wait(_ENDING_SECONDS)
        self.process.close()
