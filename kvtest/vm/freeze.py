# SPDX-License-Identifier: Apache-2.0
"""From a running machine to the two files of a template: its state and its memory."""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

from kvtest.deadline import Deadline
from kvtest.errors import TemplateError
from kvtest.vm.machine import VM

_PAGE = mmap.PAGESIZE
_BLOCK = 1 << 20


def freeze(vm: VM, state: Path, deadline: Deadline) -> None:
    """Have QEMU write the state of a running machine, which ends its running; memory is in its file already."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        path = vm.directory / "state"
        listener.bind(str(path))
        listener.listen(1)
        failures: list[OSError] = []
        taker = Thread(target=_take, args=(listener, state, deadline, failures), name="kvtest-freeze", daemon=True)
        taker.start()
        capability = {"capability": "x-ignore-shared", "state": True}
        vm.monitor.execute("migrate-set-capabilities", {"capabilities": [capability]}, deadline)
        vm.monitor.execute("migrate", {"uri": f"unix:{path}"}, deadline)
        taker.join(deadline.remaining)
        if taker.is_alive():
            raise deadline.exceeded(f"QEMU to write the state of {vm.name}")
    if failures:
        raise failures[0]
    outcome = vm.monitor.execute("query-migrate", deadline=deadline)
    if outcome.get("status") != "completed":
        raise TemplateError(f"could not freeze {vm.name}: {outcome.get('error-desc', outcome)}")


def _take(listener: socket.socket, state: Path, deadline: Deadline, failures: list[OSError]) -> None:
    try:
        listener.settimeout(deadline.remaining)
        connection, _ = listener.accept()
        with connection, state.open("wb") as stream:
            connection.settimeout(deadline.remaining)
            while data := connection.recv(_BLOCK):
                stream.write(data)
    except OSError as error:
        failures.append(error)


def compact(source: Path, target: Path) -> None:
    """Copy memory without its pages of zeros."""
    zero = bytes(_PAGE)
    with source.open("rb") as given, target.open("wb") as kept:
        for offset, size in extents(source):
            given.seek(offset)
            data = memoryview(given.read(size))
            start = 0
            while start < size:  # runs of pages that hold something
                while start < size and data[start : start + _PAGE] == zero:
                    start += _PAGE
                end = start
                while end < size and data[end : end + _PAGE] != zero:
                    end += _PAGE
                kept.seek(offset + start)
                kept.write(data[start:end])
                start = end
        kept.truncate(source.stat().st_size)


def extents(path: Path) -> Iterator[tuple[int, int]]:
    """Yield offset and size of a file's data, in pieces (lseek(2), SEEK_DATA)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        end = os.fstat(descriptor).st_size
        offset = 0
        while offset < end:
            try:
                start = os.lseek(descriptor, offset, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                return
            offset = os.lseek(descriptor, start, os.SEEK_HOLE)
            yield start, offset - start
    finally:
        os.close(descriptor)
