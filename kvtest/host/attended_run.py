# SPDX-License-Identifier: Apache-2.0
"""A run of kvtest that an attendant starts, and whatever comes of it.

This file is sent to the other machine together with ``attendant.py`` and stands alone, as that one does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from kvtest.host.frames import PIECE

_CLEARING_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
_IN_MODIFY, _IN_CREATE = 0x2, 0x100
_libc = ctypes.CDLL(None, use_errno=True)


class AttendedRun:
    """A run of kvtest, and whatever comes of it.

    Args:
        place: The run's directory.
        site: Where kvtest and what it needs are.
        arguments: The arguments of kvtest.
        results: The results directory, relative to the directory that it runs in.
        scripts: Commands that kvtest brings.
        columns: How wide its lines may be.
        variables: What it has in its environment besides.
    """

    def __init__(
        self,
        place: Path,
        site: Path,
        arguments: list[str],
        results: str,
        scripts: dict[str, str],
        columns: int,
        variables: dict[str, str],
    ) -> None:
        self.directory = place / "work"
        self.results_directory = self.directory / results
        self.results_directory.mkdir(parents=True)
        self._inotify = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        _libc.inotify_add_watch(self._inotify, os.fsencode(self.results_directory), _IN_MODIFY | _IN_CREATE)
        self._offset = 0
        programs = place / "bin"
        programs.mkdir()
        for name, target in scripts.items():
            write_script(programs / name, sys.executable, site, target)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("KVTEST_", "PYTEST", "PYTHON"))  # what a login there sets is not of this run
        }
        environment |= {"PYTHONPATH": str(site), "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1"}
        environment |= {"COLUMNS": str(columns), **variables}
        environment["PATH"] = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kvtest", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            env=environment,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - we have one thread
        )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout.fileno()
        os.set_blocking(self._stdout, False)
        self._speaks = True
        self._pidfd = os.pidfd_open(self._process.pid)

    def descriptors(self) -> list[int]:
        """Return what to wait on."""
        return [self._pidfd, self._inotify, *([self._stdout] if self._speaks else [])]

    def ended(self) -> bool:
        """Whether kvtest has ended."""
        return bool(select.select([self._pidfd], [], [], 0)[0])

    def output(self) -> bytes:
        """Return some of what it has printed since; nothing if there is nothing."""
        if not self._speaks:
            return b""
        try:
            data = os.read(self._stdout, PIECE)
        except BlockingIOError:
            return b""
        self._speaks = bool(data)
        return data

    def results(self) -> bytes:
        """Return whole lines of results that have come since; nothing if there are none."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._inotify, 1 << 16):
                pass
        try:
            with (self.results_directory / "results.jsonl").open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return b""
        lines = data[: data.rfind(b"\n") + 1]
        self._offset += len(lines)
        return lines

    def interrupt(self) -> None:
        """Do what Ctrl-C does."""
        if not self.ended():
            self._process.send_signal(signal.SIGINT)

    def wait(self, seconds: float) -> None:
        """Wait for its end, and let it say what it likes meanwhile."""
        end = time.monotonic() + seconds
        while not self.ended() and (left := end - time.monotonic()) > 0:
            select.select(
                [descriptor for descriptor in self.descriptors() if descriptor != self._inotify], [], [], left
            )
            while self.output():
                pass

    def close(self) -> int:
        """End it with all that came of it; return its exit status."""
        self._process.kill()
        status = self._process.wait()
        os.close(self._pidfd)
        os.close(self._inotify)
        # If it was killed, its keeper is clearing up; what is left then is ours, for orphans become our children.
        end = time.monotonic() + _CLEARING_SECONDS
        while _reap() and (left := end - time.monotonic()) > 0:
            signal.sigtimedwait({signal.SIGCHLD}, left)
        while _reap():
            for child in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            signal.sigtimedwait({signal.SIGCHLD}, 1.0)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return status if status >= 0 else 128 - status


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _reap() -> bool:
    """Reap children that have ended; return whether others have not."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def _children() -> list[int]:
    pid = os.getpid()
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as stream:
        return [int(word) for word in stream.read().split()]


def write_script(path: Path, python: str, site: Path, target: str) -> None:
    """Write a command that kvtest brings.

    Args:
        path: Where to.
        python: The path of Python there.
        site: Where kvtest and what it needs are.
        target: What it runs: ``module:function``.
    """
    module, _, function = target.partition(":")
    path.write_text(
        f"#!{python}\nimport sys\nsys.path.insert(0, {str(site)!r})\nfrom {module} import {function}\n"
        f"sys.exit({function}())\n"
    )
    path.chmod(0o755)
