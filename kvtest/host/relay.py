# SPDX-License-Identifier: Apache-2.0
"""What a run on another machine says and finds, in the words of this one: paths, and the command that repeats it."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_REPRODUCE = "reproduce: kvtest run "
_FULL = os.strerror(errno.ENOSPC).encode()
_COMMAND = re.compile(re.escape(_REPRODUCE) + r"(.*)")


class Relay:
    """Puts our words in the place of theirs, line by line.

    Args:
        host: The other machine, as the user wrote it.
        flags: What the command that repeats a test there has besides.
        theirs: The results directory there.
        ours: The results directory here.
        places: The ends of directories there with tests or files of the user's, and what they are here.
        without: What the run there was told besides by us, which the command that repeats a test here has not.
    """

    def __init__(
        self,
        host: str,
        flags: Sequence[str],
        theirs: str,
        ours: Path,
        places: Mapping[str, str],
        without: Sequence[str] = (),
    ) -> None:
        self._host = host
        # The path of such a directory is told in several ways, also from where pytest is, and with its last slash or
        # without.
        self._places = [
            (re.compile(r"(?<![\w./~+-])(?:[\w./~+-]*/)?" + re.escape(there) + r"(/|(?=[\s'\",:]|$))"), here)
            for there, here in places.items()
        ]
        self._results = theirs, str(ours)
        self._flags, self._without = list(flags), frozenset(without)
        self._rest = b""

    def lines(self, said: bytes) -> Iterator[bytes]:
        """Yield the lines that are complete with some more output; each with its line feed."""
        *lines, self._rest = (self._rest + said).split(b"\n")
        for line in lines:
            yield self._said(line) + b"\n"

    def rest(self) -> bytes:
        """Return the last line if it was left without a line feed."""
        rest, self._rest = self._rest, b""
        return self._said(rest)

    def _said(self, line: bytes) -> bytes:
        if _FULL in line:  # it is about a place there
            return line
        return self._in_ours(line.decode(errors="surrogateescape")).encode(errors="surrogateescape")

    def results(self, lines: bytes) -> bytes:
        """Return whole lines of a results file with our words; that of the run says where and by which command."""
        return b"".join(json.dumps(self._result(json.loads(line))).encode() + b"\n" for line in lines.splitlines())

    def _result(self, table: Any) -> Any:
        told = self._translated(table)
        if isinstance(told, dict) and told.get("kind") == "run":
            properties = {**told.get("properties", {}), "host": self._host}
            return {**told, "command": shlex.join(sys.argv), "properties": properties}
        return told

    def _translated(self, value: Any) -> Any:
        r"""Return what JSON has become, with our words in all of its texts.

        Not by replacing bytes: the ``n`` of a line feed's ``\n`` would be taken for the beginning of a path.
        """
        if isinstance(value, str):
            return self._in_ours(value)
        if isinstance(value, list):
            return [self._translated(one) for one in value]
        if isinstance(value, dict):
            return {name: self._translated(one) for name, one in value.items()}
        return value

    def _in_ours(self, text: str) -> str:
        pieces = _COMMAND.split(text)  # what is between two commands, and in turns with it their arguments
        return "".join(self._repeated(one) if number % 2 else self._placed(one) for number, one in enumerate(pieces))

    def _repeated(self, arguments: str) -> str:
        """Return the command that repeats a test there; a path here may need quotes that it did not need there."""
        try:
            words = shlex.split(arguments)
        except ValueError:  # cut off
            return f"{_REPRODUCE}{self._placed(arguments)}"
        ours = [self._placed(word) for word in words if word not in self._without]
        return f"{_REPRODUCE}{shlex.join([*self._flags, *ours])}"

    def _placed(self, text: str) -> str:
        text = text.replace(*self._results)
        for pattern, here in self._places:
            text = pattern.sub(functools.partial(_place_here, here), text)
        return text


def _place_here(here: str, found: re.Match[str]) -> str:
    """Return a directory here, with the slash that was found behind it there."""
    return "" if here == "." and found[1] else here + found[1]
