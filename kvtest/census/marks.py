# SPDX-License-Identifier: Apache-2.0
"""What tells that something on the host is ours although no process of ours holds it."""

from __future__ import annotations

from pathlib import Path

from attrs import Factory, define

_SHORTEST_WORD = 6  # a shorter one is in other people's names too


@define
class Marks:
    """Places and names that belong to this process and to nobody else.

    Args:
        places: Directories; whatever is mounted, bound or kept below them is ours.
        words: Names that were made up for this run, such as the ID of a pod; whatever has one of them in its own name,
            anywhere on the host, is ours.
        cids: vsock addresses of our guests.
        paths: Shell patterns of files and directories anywhere that are ours when they exist.
    """

    places: set[str] = Factory(set)
    words: set[str] = Factory(set)
    cids: set[int] = Factory(set)
    paths: set[str] = Factory(set)

    def add_place(self, path: Path) -> None:
        """Count what is below a directory."""
        self.places.add(f"{path.absolute()}/")

    def add_word(self, word: str) -> None:
        """Count what is named with a word.

        Raises:
            ValueError: The word is so short that others may have it in their names.
        """
        if len(word) < _SHORTEST_WORD:
            raise ValueError(f"{word!r} is too short to tell what is ours: at least {_SHORTEST_WORD} characters")
        self.words.add(word)

    def own(self, *names: str) -> bool:
        """Whether something of these names or paths is ours."""
        return any(
            any(word in name for word in self.words) or any(f"{name}/".startswith(place) for place in self.places)
            for name in names
        )
