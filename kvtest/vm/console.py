# SPDX-License-Identifier: Apache-2.0
"""What a guest wrote on its serial console, and what it means when the guest is gone."""

from __future__ import annotations

import re
from pathlib import Path

_PANIC = re.compile(r"Kernel panic - not syncing: (.*)")
_INIT = re.compile(r"kvtest-init: (.*)")
# What follows tells where the kernel was when it gave up: mostly nothing of the reason, which comes before.
_LAST_WORDS = re.compile(r"kvtest-init: .*|Kernel panic - not syncing: .*")
_CONTROL_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])|\r")


class Console:
    """A console that QEMU writes to a file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        """Bytes written so far; a mark for :meth:`text`."""
        return self.path.stat().st_size if self.path.exists() else 0

    def text(self, since: int = 0) -> str:
        """Return what was written, terminal control sequences removed.

        Args:
            since: An earlier :attr:`size`.
        """
        if not self.path.exists():
            return ""
        with self.path.open("rb") as stream:
            stream.seek(since)
            return _CONTROL_SEQUENCE.sub("", stream.read().decode(errors="replace"))

    def tail(self, lines: int = 15) -> str:
        """Return the last lines, or a remark that there are none; why the guest gave up is the last that counts."""
        text = self.text()
        given_up = _LAST_WORDS.search(text)
        kept = [line for line in text[: given_up.end() if given_up else None].splitlines() if line.strip()][-lines:]
        return "\n".join(kept) if kept else "(the console is empty)"

    def panic(self) -> str | None:
        """Return the reason of the first kernel panic, if there was one."""
        return _first(_PANIC, self.text())

    def init_failure(self) -> str | None:
        """Return what our init said before it gave up, if it did."""
        return _first(_INIT, self.text())


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[1].strip() if found else None
