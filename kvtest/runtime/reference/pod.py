# SPDX-License-Identifier: Apache-2.0
"""What a pod has on the host besides the bundles of its containers: a directory of its own.

None of the bundles could have it: containers come and go, the first one too, and the pod goes on with the others.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from kvtest.runtime.reference.arguments import Invocation, start_time

PODS = Path("/run/containerd/kvtest")
_SHIM = "shim.json"
_MACHINE = "machine.json"
_CONTAINERS = "containers"
_PATIENCE_MS = 4000


class PodDirectory:
    """The directory of a pod: which processes serve it, and which containers it has.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, invocation: Invocation, pod: str) -> PodDirectory:
        """Return that of a pod, which need not exist: one for all its containers, and for no other pod.

        Args:
            invocation: How the shim was run.
            pod: The pod's ID. It may be anything that somebody has written into an annotation.
        """
        name = f"{pod.replace('/', '-')[:128]}-{invocation.pod_socket(pod).name[:16]}"
        return cls(PODS / invocation.namespace / name)

    # --- One at a time

    @contextlib.contextmanager
    def locked(self, *, made: bool = False) -> Iterator[bool]:
        """Keep everybody else out who starts or deletes something of the pod; yields whether there is the directory.

        Args:
            made: Whether to make it where it is not.
        """
        lock = self._lock(made=made)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                os.close(lock)

    def _lock(self, *, made: bool, operation: int = fcntl.LOCK_EX) -> int | None:
        while True:
            try:
                if made:
                    # It and those above it may go at any time, also while mkdir looks what is there; open() tells.
                    with contextlib.suppress(FileExistsError):
                        self.path.mkdir(mode=0o700, parents=True)
                lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                if made:
                    continue
                return None
            try:
                fcntl.flock(lock, operation)
                # Whoever had it may have removed the directory, and somebody else made another.
                if os.path.samestat(os.fstat(lock), os.stat(self.path)):
                    return lock
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    # --- Its containers

    @property
    def containers(self) -> set[str]:
        """Those that were started, and neither deleted nor given up."""
        try:
            return set(os.listdir(self.path / _CONTAINERS))
        except FileNotFoundError:
            return set()

    def add(self, container: str) -> None:
        """Take a container."""
        directory = self.path / _CONTAINERS
        directory.mkdir(exist_ok=True)
        (directory / container).touch()

    def remove(self, container: str) -> None:
        """Forget a container; harmless if there is none."""
        with contextlib.suppress(OSError):
            (self.path / _CONTAINERS / container).unlink()

    # --- Its processes

    def note_shim(self, pid: int) -> None:
        """Write down which process serves the pod."""
        self._note(_SHIM, pid)

    def note_machine(self, pid: int) -> None:
        """Write down which process is its virtual machine."""
        self._note(_MACHINE, pid)

    def _note(self, name: str, pid: int) -> None:
        new = self.path / f"{name}.new"
        new.write_text(json.dumps({"pid": pid, "start": start_time(pid)}))
        new.replace(self.path / name)

    def _noted(self, name: str) -> tuple[int, str | None]:
        try:
            found = json.loads((self.path / name).read_bytes())
            return int(found["pid"]), str(found["start"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, None

    @property
    def machine(self) -> int:
        """The process ID of its virtual machine, which may have ended; 0 if there was none."""
        return self._noted(_MACHINE)[0]

    @property
    def served(self) -> bool:
        """Whether the process is there that serves it."""
        pid, started = self._noted(_SHIM)
        return pid != 0 and start_time(pid) == started

    # --- Its end

    def end(self, *, ending: bool) -> None:
        """End its processes, wait until they are not there any more, and remove the directory; only with the lock.

        The machine belongs to a keeper that ends it with the shim, so ending the shim is all that it takes mostly.

        Args:
            ending: Whether the shim is about to end by itself, which it is given time for.
        """
        self._end_processes(ending=ending)
        self._vanish()

    def _vanish(self) -> None:
        """Remove the directory, and those above it that no other pod is in."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()
            PODS.rmdir()

    def clear(self) -> None:
        """Have nothing of one that the pod's ID was used for before, which may be about to end; only with the lock."""
        self._end_processes(ending=True)
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()

    def _end_processes(self, *, ending: bool) -> None:
        # The shim first: it would take the end of its machine for a loss, and tell.
        _end(*self._noted(_SHIM), _PATIENCE_MS if ending else 0)
        _end(*self._noted(_MACHINE), 0)

    def leave(self, *, waiting: bool = False) -> None:
        """Remove the directory, as its shim that ends.

        Args:
            waiting: Whether to wait for the lock, as a shim that was started just now. If somebody else has it, they
                wait for our end, and will remove the directory.
        """
        try:
            lock = self._lock(made=False, operation=fcntl.LOCK_EX | (0 if waiting else fcntl.LOCK_NB))
        except BlockingIOError:
            return
        if lock is not None:
            if self._noted(_SHIM)[0] == os.getpid():
                self._vanish()
            os.close(lock)


def _end(pid: int, started: str | None, patience_ms: int) -> None:
    """End a process, unless another has its number by now, and wait until it has ended."""
    if started is None:
        return
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            if start_time(pid) == started:
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                if not poll.poll(patience_ms):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    poll.poll(_PATIENCE_MS)
        finally:
            os.close(pidfd)
