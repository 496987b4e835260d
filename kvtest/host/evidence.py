# SPDX-License-Identifier: Apache-2.0
"""The artifacts of tests that have failed, packed as soon as their results are there: the connection may not last.

This file is sent to the other machine together with ``attendant.py`` and stands alone, as that one does. As a program
it writes the archive of one test: ``python3 -m kvtest.host.evidence RESULTS ARTIFACTS``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tarfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

_BAD = ("failed", "error")


def of_failed(lines: bytes, results: Path) -> Iterator[Path]:
    """Yield the artifacts of the tests that have failed.

    Args:
        lines: Lines of the results file.
        results: The results directory.
    """
    for line in lines.splitlines():
        said = json.loads(line)
        if said.get("kind") == "test" and said.get("outcome") in _BAD:
            artifacts = Path(said.get("properties", {}).get("artifacts", ""))
            if artifacts.is_absolute() and artifacts.is_relative_to(results):
                yield artifacts


class Evidence:
    """Artifacts that wait to be sent.

    Args:
        results: The results directory.
    """

    def __init__(self, results: Path) -> None:
        self._results = results
        self._tests: deque[Path] = deque()
        self._packed: Iterator[bytes] | None = None
        self._begun = False

    def note(self, lines: bytes) -> None:
        """Take note of the tests that have failed, as lines of the results file say."""
        self._tests.extend(of_failed(lines, self._results))

    @property
    def waiting(self) -> bool:
        """Whether there is something to send."""
        return bool(self._tests) or self._packed is not None

    def piece(self) -> tuple[dict[str, bool], bytes]:
        """Return the next piece of an archive: whether it is the first and whether it is the last, and the bytes.

        One that could not be packed to its end has no last piece.
        """
        if self._packed is None:
            self._packed, self._begun = pack(self._results, self._tests.popleft()), False
        first, self._begun = not self._begun, True
        try:
            return {"first": first, "last": False}, next(self._packed)
        except StopIteration:
            self._packed = None
            return {"first": first, "last": True}, b""
        except (OSError, tarfile.TarError):  # a file has become shorter while it was read
            self._packed = None
            return {"first": True, "last": False}, b""


class _Buffer(io.BytesIO):
    """What an archive is written to, piece by piece."""

    def take(self) -> bytes:
        data = self.getvalue()
        self.seek(0)
        self.truncate()
        return data


def pack(results: Path, artifacts: Path) -> Iterator[bytes]:
    """Yield an archive of a test's artifacts, whose names are relative to the results.

    Args:
        results: The results directory.
        artifacts: The test's directory in it.
    """
    buffer = _Buffer()
    with tarfile.open(fileobj=buffer, mode="w|gz") as archive:
        for path in _with_what_is_linked(results, artifacts):
            with contextlib.suppress(FileNotFoundError):  # a guest has removed its socket
                archive.add(path, str(path.relative_to(results)), recursive=False)
            if data := buffer.take():
                yield data
    yield buffer.take()


def _with_what_is_linked(results: Path, artifacts: Path) -> Iterator[Path]:
    """Yield the files of a test, and those of its guest, to which there is a link."""
    seen: set[Path] = set()
    directories = [artifacts]
    while directories:
        directory = directories.pop()
        for path in (directory, *sorted(directory.rglob("*"))):
            if path in seen:
                continue
            seen.add(path)
            yield path
            target = Path(os.path.normpath(path.parent / path.readlink())) if path.is_symlink() else results
            if target != results and target.is_relative_to(results) and target.exists():
                directories.append(target)


if __name__ == "__main__":
    sys.stdout.buffer.writelines(pack(*map(Path, sys.argv[1:])))
