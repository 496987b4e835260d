# SPDX-License-Identifier: Apache-2.0
"""What a run on another machine says and finds, in the words of this one: paths, and the command that repeats it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_REPRODUCE = "reproduce: kvtest run "


class Relay:
    """Puts our words in the place of theirs, line by line.

    Args:
        host: The other machine, as the user wrote it.
        flags: What the command that repeats a test there has besides.
        theirs: The results directory there.
        ours: The results directory here.
        suites: The end of the directory of the suites there.
    """

    def __init__(self, host: str, flags: Sequence[str], theirs: str, ours: Path, suites: str) -> None:
        self._host = host
        self._suites = re.compile(rb"[\w./~+-]*/" + re.escape(suites.encode()))
        self._words = {
            theirs: str(ours),
            _REPRODUCE: f"{_REPRODUCE}{shlex.join(flags)} ",
        }
        self._rest = b""

    def lines(self, said: bytes) -> Iterator[bytes]:
        """Yield the lines that are complete with some more output; each with its line feed."""
        *lines, self._rest = (self._rest + said).split(b"\n")
        for line in lines:
            yield self._in_ours(line) + b"\n"

    def rest(self) -> bytes:
        """Return the last line if it was left without a line feed."""
        rest, self._rest = self._rest, b""
        return self._in_ours(rest)

    def results(self, lines: bytes) -> bytes:
        """Return lines of a results file with our words; that of the run says where and by which command it was."""
        for there, here in self._words.items():
            lines = lines.replace(_escaped(there), _escaped(here))
        lines = self._suites.sub(b"suites/", lines)
        first, feed, others = lines.partition(b"\n")
        table = json.loads(first) if feed else None
        if not isinstance(table, dict) or table.get("kind") != "run":
            return lines
        properties = {**table.get("properties", {}), "host": self._host}
        own = {**table, "command": shlex.join(sys.argv), "properties": properties}
        return json.dumps(own).encode() + feed + others

    def _in_ours(self, line: bytes) -> bytes:
        for there, here in self._words.items():
            line = line.replace(there.encode(), here.encode())
        return self._suites.sub(b"suites/", line)


def _escaped(text: str) -> bytes:
    """Return text as it is within a string of JSON."""
    return json.dumps(text)[1:-1].encode()
