# SPDX-License-Identifier: Apache-2.0
"""The results of a run on another host, as they come."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from kvtest.errors import HostError
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
        self._path = directory / RESULTS_FILE
        try:
            self._file = self._path.open("wb", buffering=0)  # a line is in the kernel's hands once it is written
        except OSError as error:
            raise HostError(f"cannot write results to {self._path}: {error.strerror}") from error

    def take(self, lines: bytes) -> None:
        """Write lines.

        Raises:
            HostError: The file system does not take them.
        """
        try:
            while lines:
                lines = lines[self._file.write(lines) :]
        except OSError as error:
            raise HostError(f"cannot write results to {self._path}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if self._path.stat().st_size:
            write_junit(Results.read(self._path), self._directory / JUNIT_FILE)
