# SPDX-License-Identifier: Apache-2.0
"""Mounts: of ours in our own namespace, and all in the private namespaces of processes of ours."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator

from kvtest.census.marks import Marks
from kvtest.census.thing import Kind, Thing

_ESCAPED = re.compile(r"\\([0-7]{3})")


def mounts(marks: Marks, processes: Iterable[Thing]) -> Iterator[Thing]:
    """Yield the mounts that are ours (proc(5), /proc/PID/mountinfo).

    Args:
        marks: What is ours in our own namespace.
        processes: Processes of ours; what is mounted in a namespace of theirs is ours.
    """
    if marks.places or marks.words:
        yield from (mount for mount, names in _mounts_of("self", 0) if marks.own(*names))
    seen = {0}
    for process in processes:
        if process.namespace not in seen:
            seen.add(process.namespace)
            yield from (mount for mount, _ in _mounts_of(str(process.pid), process.namespace))


def _mounts_of(process: str, namespace: int) -> Iterator[tuple[Thing, tuple[str, ...]]]:
    """Yield the mounts that a process sees, each with its names: where it is, what is mounted, from where."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/mountinfo", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            before, _, after = line.rstrip("\n").partition(" - ")
            number, _, _, root, point, *_ = before.split(" ")
            kind, source, *_ = after.split(" ")
            names = tuple(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), name) for name in (point, root, source))
            where = f" in the mount namespace {namespace}" if namespace else ""
            text = f"{names[0]}: {kind} of {names[2]}{where}"
            yield Thing(Kind.MOUNT, (namespace, int(number), names[0]), text, namespace=namespace), names
