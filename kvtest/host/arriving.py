# SPDX-License-Identifier: Apache-2.0
"""The results of a run on another host, as they come, and the artifacts of tests that have failed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from kvtest.errors import HostError
from kvtest.host.archive import unpack
from kvtest.ownership import write_atomically
from kvtest.report import Results, write_junit
from kvtest.report.directory import JUNIT_FILE, RESULTS_FILE


class ArrivingResults:
    """A results file that grows; use as a context manager, which makes the report of what has come, however it ends.

    Args:
        directory: The results directory.

    Raises:
        HostError: It cannot be written to.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._facts: Mapping[str, str] = {}
        self._begins = True  # the next line is of a run itself
        self._path = directory / RESULTS_FILE
        try:
            self._file = self._path.open("wb", buffering=0)  # a line is in the kernel's hands once it is written
        except OSError as error:
            raise HostError(f"cannot write results to {self._path}: {error.strerror}") from error

    def take(self, lines: bytes) -> None:
        """Write lines.

        Args:
            lines: Whole lines. Of a run that goes on where another has ended, the one of the run itself is left out.

        Raises:
            HostError: The file system does not take them.
        """
        if self._begins and lines:
            self._begins = False
            first, _, lines = lines.partition(b"\n")
            if not self._path.stat().st_size:
                lines = self._with_facts(first) + lines
        try:
            while lines:
                lines = lines[self._file.write(lines) :]
        except OSError as error:
            raise HostError(f"cannot write results to {self._path}: {error.strerror}") from error

    def go_on(self, facts: Mapping[str, str]) -> Results | None:
        """Have the next run go on where this one has ended before its time.

        Args:
            facts: What is to be known of the whole run besides.

        Returns:
            What there is so far; ``None`` if there is nothing.
        """
        self._facts, self._begins = facts, True
        content = self._path.read_bytes()
        if not content:
            return None
        first, _, others = content.partition(b"\n")
        write_atomically(self._path, (self._with_facts(first) + others).decode())
        self._file.close()
        self._file = self._path.open("ab", buffering=0)
        return Results.read(self._path)

    def _with_facts(self, line: bytes) -> bytes:
        if not self._facts:
            return line + b"\n"
        run = json.loads(line)
        return json.dumps({**run, "properties": {**run["properties"], **self._facts}}).encode() + b"\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if self._path.stat().st_size:
            write_junit(Results.read(self._path), self._directory / JUNIT_FILE)


class ArrivingEvidence:
    """Archives that come one after the other in pieces; each is unpacked when it is whole.

    Args:
        directory: The results directory, which they are unpacked to.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = tempfile.NamedTemporaryFile(prefix="kvtest-")  # noqa: SIM115 - as long as we live

    def take(self, piece: bytes, *, first: bool, last: bool) -> None:
        """Take a piece.

        Args:
            piece: The piece.
            first: Whether an archive begins with it; what came of another one before is of no use then.
            last: Whether it ends with it.

        Raises:
            HostError: There is no room for it, or something in it leads out of the directory.
        """
        try:
            if first:
                self._file.seek(0)
                self._file.truncate()
            self._file.write(piece)
            if last:
                self._file.flush()
                unpack(Path(self._file.name), self._directory)
        except OSError as error:
            raise HostError(f"cannot write artifacts to {self._directory}: {error.strerror}") from error

    def close(self) -> None:
        """Drop what is not whole."""
        self._file.close()
