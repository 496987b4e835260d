# SPDX-License-Identifier: Apache-2.0
"""The attendant: kvtest's part on another machine, as long as a connection to it lasts.

It takes what kvtest needs there, starts ``kvtest run``, and passes on what that says and finds as it comes. When the
connection ends, or nothing has come over it for a while (whoever is at its other end says something every few
seconds), it ends the run with all that came of it, removes the run's directory, and goes. If it is killed itself, the
kernel kills the run, whose own keeper clears up, and the next attendant removes the directory.

This file is sent over the connection, with ``frames.py``, ``depot.py``, ``evidence.py`` and ``attended_run.py``, and
needs nothing but Python there. Frames to it::

    {"trees": 1} and JSON: by place the files of directories that are wanted -> {"missing": [digest…], "free": bytes}
    {"object": digest, "at": offset, "size": size with the last piece} and the piece, compressed
    {"settle": 1}                          make the directories -> {"settled": 1}
    {"run": [argument…], "site": place, "results": path, "scripts": {name: "module:function"},
     "columns": width, "variables": {name: text}}
        -> {"started": directory}, {"said": 1} with output, {"results": 1} with lines of results, {"ended": status}
           and {"evidence": {"first": whether, "last": whether}} with a piece of an archive of a failed test's artifacts
    {"interrupt": 1}                       as Ctrl-C
    {"fetch": [name…]}                     of the results -> {"archive": 1} with pieces, {"fetched": 1}
    {"ping": 1}                            -> {"pong": 1}

What cannot be done is answered with ``{"failed": text, "full": whether for lack of room}``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import io
import json
import os
import platform
import select
import shutil
import signal
import sys
import tarfile
import time
import zlib
from pathlib import Path
from typing import Any

from kvtest.host.attended_run import AttendedRun
from kvtest.host.depot import Depot, RunPlace, Trees
from kvtest.host.evidence import Evidence
from kvtest.host.frames import MARK, PIECE, Frames, pack

GRACE_SECONDS = 20.0
"""What a run that is told to end is given for it, with the reports and the ends of its guests."""
_WAITING = 1 << 20  # bytes that wait to be sent, beyond which nothing more is taken from the run
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


class _GoneError(Exception):
    """Nobody is at the other end any more."""


class Attendant:
    """Serves one connection.

    Args:
        silence: Seconds after which a connection that says nothing is taken for dead.
        qemu: The QEMU that the run is to use: a name on ``PATH``, or a path.
    """

    def __init__(self, silence: float, qemu: str) -> None:
        self._silence = silence
        self._heard = time.monotonic()
        self._frames = Frames()
        self._out = bytearray(MARK)
        cache = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(cache) if cache.startswith("/") else Path("~/.cache").expanduser()
        self._base = base / "kvtest/remote"
        self._trees: Trees = {}
        self._broken = False
        self._run: AttendedRun | None = None
        self._evidence: Evidence | None = None
        self._send(_hello(qemu, self._base))
        self._depot = Depot(self._base)
        self._depot.forget_old()
        self._place = RunPlace(self._depot)

    def serve(self) -> None:
        """Serve until the other end is gone, then end everything."""
        for descriptor in (0, 1):
            os.set_blocking(descriptor, False)
        try:
            with contextlib.suppress(_GoneError):
                while True:
                    self._turn()
        finally:
            if self._run is not None:
                self._run.interrupt()
                self._run.wait(GRACE_SECONDS)
                self._run.close()
            self._depot.drop()
            self._place.remove()

    def _turn(self) -> None:
        """Wait for something to happen, and see to it."""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        if self._out:
            poll.register(1, select.POLLOUT)
        if self._run is not None and len(self._out) < _WAITING:
            for descriptor in self._run.descriptors():
                poll.register(descriptor, select.POLLIN)
        left = self._heard + self._silence - time.monotonic()
        spare = not self._out and self._evidence is not None and self._evidence.waiting
        ready = {descriptor for descriptor, _ in poll.poll(0 if spare else max(0, int(left * 1000) + 1))}
        if 0 in ready:
            self._hear()
        elif left <= 0:
            raise _GoneError
        if 1 in ready:
            self._write()
        if self._run is not None and ready & set(self._run.descriptors()):
            self._tell_of_run(self._run)
        if self._evidence is not None and self._evidence.waiting and not self._out:  # results go first
            header, payload = self._evidence.piece()
            self._send({"evidence": header}, payload)

    def _hear(self) -> None:
        try:
            data = os.read(0, 1 << 20)
        except BlockingIOError:
            return
        except OSError as error:
            raise _GoneError from error
        if not data:
            raise _GoneError
        self._heard = time.monotonic()
        self._frames.feed(data)
        for header, payload in self._frames.take():
            try:
                self._do(header, payload)
            except (OSError, ValueError, zlib.error) as error:
                self._broken = True  # what is on its way here already is of no use
                number = error.errno if isinstance(error, OSError) else None
                full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
                said = (error.strerror if isinstance(error, OSError) else None) or str(error)
                self._send({"failed": f"{self._base}: {said}", "full": full})

    def _do(self, header: dict[str, Any], payload: bytes) -> None:
        if "ping" in header:
            self._send({"pong": 1})
        elif "interrupt" in header:
            if self._run is not None:
                self._run.interrupt()
        elif self._broken:
            return
        elif "object" in header:
            self._depot.take(header["object"], header["at"], payload, header.get("size"))
        elif "trees" in header:
            self._trees = json.loads(zlib.decompress(payload))
            missing = self._depot.missing(self._trees)
            self._send({"missing": missing, "free": shutil.disk_usage(self._base).free})
        elif "settle" in header:
            self._depot.settle(self._trees)
            self._send({"settled": 1})
        elif "run" in header:
            told = (header[name] for name in ("run", "results", "scripts", "columns", "variables"))
            self._run = AttendedRun(self._place.path, self._base / header["site"], *told)
            self._results = self._run.results_directory
            self._evidence = Evidence(self._results)
            self._send({"started": str(self._run.directory)})
        elif "fetch" in header:
            self._fetch(header["fetch"])

    def _tell_of_run(self, run: AttendedRun) -> None:
        ended = run.ended()
        while said := run.output():
            self._send({"said": 1}, said)
        for lines in iter(run.results, b""):
            self._send({"results": 1}, lines)
            if self._evidence is not None:
                self._evidence.note(lines)
        if ended:
            status = run.close()
            self._run = self._evidence = None  # all artifacts are about to be fetched
            self._send({"ended": status})

    def _fetch(self, names: list[str]) -> None:
        with tarfile.open(fileobj=_Pieces(self), mode="w|gz") as archive:
            for name in names:
                if (self._results / name).exists():
                    archive.add(self._results / name, name)
        self._send({"fetched": 1})

    def archive(self, data: bytes) -> None:
        """Send a piece of an archive, as fast as it is taken."""
        self._send({"archive": 1}, data)
        while len(self._out) > _WAITING:
            self._turn()

    def _send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        self._out += pack(header, payload)

    def _write(self) -> None:
        try:
            del self._out[: os.write(1, self._out[:PIECE])]
        except BlockingIOError:
            pass
        except OSError as error:
            raise _GoneError from error


class _Pieces(io.BufferedIOBase):
    """Somewhere to write an archive to."""

    def __init__(self, attendant: Attendant) -> None:
        self._attendant = attendant

    def write(self, data: Any) -> int:
        """Send a piece."""
        self._attendant.archive(bytes(data))
        return len(data)


def _hello(qemu: str, base: Path) -> dict[str, Any]:
    """Return what decides whether kvtest can run here, and what it has to bring."""
    found = shutil.which(qemu)
    digest = None
    if found is not None:
        with open(found, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "hello": 1,
        "node": platform.node(),
        "machine": platform.machine(),
        "tag": sys.implementation.cache_tag,
        "python": platform.python_version(),
        "libc": list(platform.libc_ver()),
        "qemu": digest,
        "kvm": os.access("/dev/kvm", os.R_OK | os.W_OK),
        "base": str(base),
    }


def main(arguments: list[str]) -> None:
    """Serve the connection on standard input and output.

    Args:
        arguments: The seconds of silence after which it counts as dead, and the name of QEMU.
    """
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))  # what is left is cleared up on the way out
    try:
        attendant = Attendant(float(arguments[0]), arguments[1])
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = error.filename or ""
        refusal = pack({"failed": f"{where}: {error.strerror}", "full": full})
        os.write(1, MARK + refusal)
        return
    attendant.serve()
