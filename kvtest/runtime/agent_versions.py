# SPDX-License-Identifier: Apache-2.0
"""What differs between versions of Kata's agent: in the API, and in behaviour on the same wire."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from attrs import frozen

from kvtest.errors import UsageError
from kvtest.typed import structure

_TABLE = Path(__file__).with_name("agent_versions.toml")


@frozen
class Behaviour:
    """How an agent of some version behaves.

    Args:
        since: The first version that does.
        api: The descriptor set that it speaks.
        copy_prefix: Where CopyFile may write.
        signalled: What is added to the number of a signal in the exit status of a process that it ended.
        overlays: Whether a storage can be an overlay that the container writes to.
    """

    since: str
    api: str
    copy_prefix: str
    signalled: int
    overlays: bool

    @property
    def key(self) -> tuple[int, int, int]:
        """The version as numbers."""
        return parse_version(self.since)


@frozen
class _Table:
    version: tuple[Behaviour, ...]


def parse_version(text: str) -> tuple[int, int, int]:
    """Return a version as numbers; what follows them, as in ``3.2.0-rc1``, is ignored.

    Raises:
        UsageError: It is none.
    """
    found = re.match(r"v?([0-9]+)\.([0-9]+)(?:\.([0-9]+))?", text)
    if found is None:
        raise UsageError(f"{text!r} is no version of an agent", hint="such as 3.32.0")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def behaviour_of(version: str) -> Behaviour:
    """Return how an agent of a version behaves.

    Raises:
        UsageError: It is older than every one that is known.
    """
    table: Any = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    known = structure(_Table, table, where=str(_TABLE)).version
    numbers = parse_version(version)
    fitting = [behaviour for behaviour in known if behaviour.key <= numbers]
    if not fitting:
        raise UsageError(
            f"the agent has the version {version}, the oldest that is known is {known[0].since}",
            hint="the API of 2.0 and older differs on the wire",
        )
    return max(fitting, key=lambda behaviour: behaviour.key)
