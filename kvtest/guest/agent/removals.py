# SPDX-License-Identifier: Apache-2.0
"""What is removed from the guest's file system, a part in each turn of the agent."""

from __future__ import annotations

import itertools
import os
import selectors
from collections import deque
from collections.abc import Callable

from kvtest.guest.reactor import Reactor

_AT_ONCE = 256  # entries in a turn: what a container has written may be much, and calls are to be answered meanwhile


class Removals:
    """Directories that are being removed.

    A container may have nested its directories deeper than a path or a recursion reaches: each is moved here before it
    is looked into. What cannot be moved, as something is mounted there, is left as it is, and no link is followed.

    Args:
        reactor: Takes turns.
        directory: Where they are moved to, on their file system; what an earlier agent left there is removed.
    """

    def __init__(self, reactor: Reactor, directory: str) -> None:
        self._reactor = reactor
        self._directory = directory
        self._trees: deque[tuple[list[str], Callable[[], None]]] = deque()
        self._always = os.eventfd(1, os.EFD_CLOEXEC)  # can be read in every turn
        os.makedirs(directory, mode=0o700, exist_ok=True)
        earlier = os.listdir(directory)
        self._numbers = itertools.count(1 + max(map(int, earlier), default=0))
        self._trees.append(([f"{directory}/{name}" for name in earlier], lambda: None))
        self._go_on()

    def add(self, path: str, gone: Callable[[], None] = lambda: None) -> None:
        """Remove a directory with all that it holds; its name is free when this returns.

        Args:
            path: The directory; need not exist.
            gone: Called when nothing is left that can be removed, which may be before this returns.
        """
        try:
            directories = [self._move(path)]
        except OSError:
            directories = []
        self._trees.append((directories, gone))
        self._go_on()

    def _move(self, path: str) -> str:
        moved = f"{self._directory}/{next(self._numbers)}"
        os.rename(path, moved)
        return moved

    def _go_on(self) -> None:
        left = _AT_ONCE
        try:
            while self._trees and left > 0:
                directories, gone = self._trees[0]
                if directories:
                    left -= self._empty(directories, left)
                else:
                    self._trees.popleft()
                    gone()
        finally:
            self._reactor.watch(self._always, selectors.EVENT_READ, self._go_on if self._trees else None)

    def _empty(self, directories: list[str], most: int) -> int:
        """Take entries from the last directory, or that one if it has none; return how many that were."""
        directory, moved, count = directories[-1], [], 0
        try:
            with os.scandir(directory) as entries:
                for entry in itertools.islice(entries, most):
                    count += 1
                    if entry.is_dir(follow_symlinks=False):
                        moved.append(self._move(entry.path))
                    else:
                        os.unlink(entry.path)
            if count == 0:
                os.rmdir(directory)
                directories.pop()
        except OSError:  # something is mounted there, or it is immutable
            directories.pop()
        directories += moved
        return max(1, count)
