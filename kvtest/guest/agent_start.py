# SPDX-License-Identifier: Apache-2.0
"""The guest agent of an image, started by init: checked for what it needs, and awaited until it listens."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

from kvtest.guest.inventory import vsock_sockets

DESCRIPTION = "/etc/kvtest/agent.json"
PID_FILE = "/run/kvtest/agent.pid"
PORT = 1024
_PATIENCE = 30.0
# The agent may take as many times longer than the guest took to get so far: one that is emulated twice is that slow.
_TIMES = 4
_NAMESPACES = ("ipc", "mnt", "net", "pid", "uts")
_CONTROLLERS = ("cpu", "memory", "pids")


class Description(NamedTuple):
    """What an image says of its agent.

    Args:
        name: What it is called in messages.
        argv: Its program and arguments.
    """

    name: str
    argv: list[str]


def description() -> Description:
    """Return what the image says of its agent."""
    with open(DESCRIPTION, encoding="utf-8") as stream:
        said = json.load(stream)
    return Description(str(said["name"]), [str(word) for word in said["argv"]])


class Agent:
    """An agent that runs.

    Raises:
        RuntimeError: The kernel lacks what it needs, or it did not come up.
    """

    def __init__(self) -> None:
        self.name, argv = description()
        check_kernel(self.name)
        try:
            self.pid = os.posix_spawn(argv[0], argv, {**os.environ, "RUST_BACKTRACE": "1"})
        except OSError as error:
            raise RuntimeError(f"could not run {self.name}: {error.strerror}") from error
        os.makedirs(os.path.dirname(PID_FILE), exist_ok=True)
        with open(PID_FILE, "w", encoding="ascii") as stream:
            stream.write(f"{self.pid}\n")

    def await_listening(self) -> None:
        """Wait until it listens on its vsock port.

        Raises:
            RuntimeError: It ended before that, or never did.
        """
        pidfd = os.pidfd_open(self.pid)
        try:
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            begin = time.monotonic()
            patience = max(_PATIENCE, _TIMES * begin)  # that clock begins with the boot
            pause = 10.0  # ms: the kernel tells nobody when a port is bound
            while not listens(PORT):
                if ended.poll(pause):
                    _, status = os.waitpid(self.pid, 0)
                    raise RuntimeError(f"{self.name} {ending(status)} before it listened on vsock port {PORT}")
                if time.monotonic() >= begin + patience:
                    raise RuntimeError(f"{self.name} did not listen on vsock port {PORT} within {patience:.0f} s")
                pause = min(pause * 1.5, 200.0)
        finally:
            os.close(pidfd)


def described() -> bool:
    """Whether this image has an agent."""
    return os.path.exists(DESCRIPTION)


def listens(port: int) -> bool:
    """Whether somebody listens on a vsock port of this guest."""
    return any(socket["state"] == "listening" and socket["local"][1] == port for socket in vsock_sockets())


def ending(status: int) -> str:
    """Return a wait status in words."""
    code = os.waitstatus_to_exitcode(status)
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"


def check_kernel(name: str) -> None:
    """Look whether the kernel has what containers need.

    Args:
        name: What the agent is called in messages.

    Raises:
        RuntimeError: It has not.
    """
    for missing in _missing():
        raise RuntimeError(f"this kernel has no {missing}, which {name} needs for containers")


def _missing() -> Iterator[str]:
    """Yield what the kernel lacks for containers."""
    for name in _NAMESPACES:
        if not os.path.exists(f"/proc/self/ns/{name}"):
            yield f"{name} namespaces"
    with open("/sys/fs/cgroup/cgroup.controllers", encoding="ascii") as stream:
        controllers = stream.read().split()
    for name in _CONTROLLERS:
        if name not in controllers:
            yield f"cgroup controller {name}"
