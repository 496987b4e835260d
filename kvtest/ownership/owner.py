# SPDX-License-Identifier: Apache-2.0
"""The owner's side of the keeper: one per process, started when first needed."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from attrs import frozen

from kvtest.errors import HostError
from kvtest.ownership import keeper as program

_FIRST_DESCRIPTORS = 3


@frozen
class Started:
    """A process that the keeper has started.

    Args:
        pid: Its process ID.
        pidfd: A descriptor of it, which is the caller's from now on.
        status: Gets its exit status, or the negated signal that ended it.
    """

    pid: int
    pidfd: int
    status: Future[int]


class Keeper:
    """The connection to a keeper.

    Raises:
        HostError: It could not be started.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", program.__file__, str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                self._socket.close()
                python = sys.executable or "Python"
                raise HostError(
                    f"could not run {python}, with which kvtest keeps what it starts: {error.strerror}",
                    hint="is the environment that kvtest runs in still there, and may you execute what is in it?",
                ) from error
        self._owner = os.getpid()
        self._environment = dict(os.environ)
        self._lock = threading.Lock()
        self._number = 0
        self._starting: dict[int, Future[Started]] = {}
        self._running: dict[int, Future[int]] = {}
        self._reader = threading.Thread(target=self._read, name="kvtest-keeper", daemon=True)
        self._reader.start()

    def start(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        standard: Sequence[int],
        pass_fds: Sequence[int] = (),
        directory: Path | None = None,
        mounts: int | None = None,
    ) -> Started:
        """Start a program.

        Args:
            argv: Program, found on the ``PATH`` of its environment, and arguments; nothing for a process that only
                has a mount namespace of its own.
            environment: Its environment.
            standard: Descriptors that become its standard input, output and error.
            pass_fds: Descriptors that it inherits under the same numbers.
            directory: Its working directory; ours when the keeper was started if ``None``.
            mounts: A descriptor of the mount namespace that it runs in; ours if ``None``.

        Raises:
            OSError: It could not be started.
            HostError: The keeper is gone.
        """
        number, started = self._expect()
        wanted = [*range(_FIRST_DESCRIPTORS), *pass_fds]
        given = [*standard, *pass_fds]
        if mounts is not None:
            wanted.append(program.IN_NAMESPACE)
            given.append(mounts)
        message = {
            "start": number,
            "argv": list(argv),
            "environment": {
                name: environment.get(name)
                for name in {**self._environment, **environment}
                if environment.get(name) != self._environment.get(name)
            },
            "directory": None if directory is None else str(directory),
            "descriptors": wanted,
        }
        self._tell(message, given)
        return started.result()

    def adopt(self, pid: int) -> Started:
        """Take an orphan, whose starter has ended, as if it had been started.

        Raises:
            OSError: It is no child of the keeper: it has ended, or somebody else has it.
            HostError: The keeper is gone.
        """
        number, started = self._expect()
        self._tell({"adopt": number, "pid": pid})
        return started.result()

    def _expect(self) -> tuple[int, Future[Started]]:
        started: Future[Started] = Future()
        with self._lock:
            self._number += 1
            self._starting[self._number] = started
            return self._number, started

    def remove(self, path: Path) -> None:
        """Have a path removed if we end without :meth:`keep`; say so before it is made."""
        self._tell({"remove": os.path.abspath(path)})

    def keep(self, path: Path) -> None:
        """Take a :meth:`remove` back."""
        self._tell({"keep": os.path.abspath(path)})

    def end_heirs(self, entry: str) -> None:
        """Have the processes end with us that have an entry in their environment, whosever children they are."""
        self._tell({"heirs": entry})

    def remove_cgroups(self, word: str) -> None:
        """Have the cgroups removed whose names begin with a word if we end without :meth:`keep_cgroups`."""
        self._tell({"remove_cgroups": word})

    def keep_cgroups(self, word: str) -> None:
        """Take a :meth:`remove_cgroups` back."""
        self._tell({"keep_cgroups": word})

    def close(self) -> None:
        """End everything that was started, and the keeper."""
        if os.getpid() != self._owner:  # a fork inherited what is to be done at our end
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._process.wait()
        self._reader.join()
        self._socket.close()

    def _tell(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        data = json.dumps(message).encode()
        if len(data) > program.MESSAGE_LIMIT:
            raise HostError(f"a command of {len(data)} bytes is more than kvtest starts", hint="use a file")
        try:
            socket.send_fds(self._socket, [data], list(descriptors))
        except OSError as error:
            raise _gone() from error

    def _read(self) -> None:
        while True:
            try:
                data, descriptors = program.receive(self._socket)
            except OSError:
                data = b""
            if not data:
                break
            self._take(json.loads(data), descriptors)
        with self._lock:
            waiting: list[Future[Any]] = [*self._starting.values(), *self._running.values()]
            self._starting.clear()
            self._running.clear()
        for future in waiting:
            future.set_exception(_gone())

    def _take(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if "ended" in message:
            self._running.pop(message["ended"]).set_result(message["status"])
        elif "started" in message:
            status: Future[int] = Future()
            self._running[message["started"]] = status
            self._starting.pop(message["started"]).set_result(Started(message["pid"], descriptors[0], status))
        else:
            error = OSError(message["errno"], os.strerror(message["errno"]))
            self._starting.pop(message["failed"]).set_exception(error)


def _gone() -> HostError:
    return HostError("the process that keeps kvtest's children has ended", hint="was it killed by hand?")


class _Current:
    """The keeper of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keeper: Keeper | None = None
        self._pid = 0

    def get(self) -> Keeper:
        with self._lock:
            if self._keeper is None or self._pid != os.getpid():  # first use, or we are a fork of the owner
                self._keeper, self._pid = Keeper(), os.getpid()
                atexit.register(self._keeper.close)
            return self._keeper


_current = _Current()


def current_keeper() -> Keeper:
    """Return the keeper of this process, started on first use."""
    return _current.get()
