# SPDX-License-Identifier: Apache-2.0
"""``start``: leave a process running that serves a pod, or find the one that does."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from kvtest.errors import KvtestError, ShimError
from kvtest.runtime.reference.arguments import Invocation, pod_of, specification
from kvtest.runtime.reference.pod import PodDirectory
from kvtest.runtime.reference.state import ADDRESS_FILE, NAME

_SCHEME = "unix://"


def start(invocation: Invocation) -> str:
    """Return the address of the shim that serves a container's pod, started if there is none.

    Raises:
        ShimError: The bundle cannot be used, or the socket cannot be made.
    """
    pod = pod_of(specification(invocation.bundle), invocation.name)
    path, directory = invocation.pod_socket(pod), PodDirectory.of(invocation, pod)
    with directory.locked(made=True):
        if answers(path):
            directory.add(invocation.name)
        else:
            directory.clear()
            try:
                _start(invocation, path, directory)
            except ShimError:
                directory.end(ending=False)
                raise
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


def _start(invocation: Invocation, path: Path, directory: PodDirectory) -> None:
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
        # Forked, and not started: what this process has loaded, the other needs too.
        child = os.fork()
        if child == 0:
            _go_on(invocation, listener, directory)
    directory.add(invocation.name)
    directory.note_shim(child)


def _go_on(invocation: Invocation, listener: socket.socket, directory: PodDirectory) -> NoReturn:
    """Be the process that serves, and have nothing of whoever runs ``start``."""
    status, path = 1, Path(listener.getsockname())
    try:
        os.setsid()
        os.chdir(directory.path)  # the bundle may go before us
        with _log(invocation.bundle) as log, open(os.devnull, "rb") as nothing:
            for number, descriptor in enumerate((nothing.fileno(), log, log)):
                os.dup2(descriptor, number)
        os.closerange(3, listener.fileno())
        os.closerange(listener.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        from kvtest.runtime.reference.serve import serve

        serve(invocation, listener, directory)
        status = 0
    except KvtestError as error:
        sys.stderr.write(f"{NAME}: {error}\n")
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        if status != 0:  # nobody knows of it yet who would have it clear up
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                directory.leave(waiting=True)
        os._exit(status)  # threads may be in calls that nobody will answer


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
