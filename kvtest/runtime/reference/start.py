# SPDX-License-Identifier: Apache-2.0
"""``start``: leave a process running that serves a pod, or find the one that does."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from kvtest.errors import ShimError
from kvtest.runtime.reference.arguments import Invocation, pod_of, specification
from kvtest.runtime.reference.state import ADDRESS_FILE

_SCHEME = "unix://"


def start(invocation: Invocation) -> str:
    """Return the address of the shim that serves a container's pod, started if there is none.

    Raises:
        ShimError: The bundle cannot be used, or the socket cannot be made.
    """
    pod = pod_of(specification(invocation.bundle), invocation.name)
    path = invocation.pod_socket(pod)
    if not answers(path):
        _start(invocation, path)
    address = f"{_SCHEME}{path}"
    (invocation.bundle / ADDRESS_FILE).write_text(address)
    return address


def answers(path: Path) -> bool:
    """Whether somebody listens at a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _start(invocation: Invocation, path: Path) -> None:
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # nobody listens at it any more
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(str(path))
        except OSError as error:
            raise ShimError(f"could not listen at {path}: {error.strerror}") from error
        path.chmod(0o600)
        listener.listen()
        flags = [f"-{name}={value}" for name, value in invocation.values.items() if name not in ("socket", "bundle")]
        command = [sys.executable, "-m", "kvtest.runtime.reference.main", *flags]
        command += [f"-bundle={invocation.bundle}", f"-socket={listener.fileno()}", "serve"]
        with _log(invocation.bundle) as log:
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,
                cwd=invocation.bundle,
            )


@contextlib.contextmanager
def _log(bundle: Path) -> Iterator[int]:
    """Open the bundle's log: a fifo that containerd reads, or a file; nothing where nobody reads."""
    try:
        descriptor = os.open(bundle / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o600)
        os.set_blocking(descriptor, True)
    except OSError:
        descriptor = os.open(os.devnull, os.O_WRONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
