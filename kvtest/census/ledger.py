# SPDX-License-Identifier: Apache-2.0
"""What may be there, and what a test has left."""

from __future__ import annotations

import contextlib
import fnmatch
import gc
import os
import select
from collections.abc import Iterable, Iterator, Sequence

from kvtest.census.descriptors import explained
from kvtest.census.marks import Marks
from kvtest.census.removal import remove_by_force
from kvtest.census.survey import survey
from kvtest.census.thing import Kind, Thing
from kvtest.deadline import Deadline
from kvtest.errors import LeakError

# Not every end is announced by an event; what is not is looked at again this often.
_AGAIN_MS = 20


class Ledger:
    """What exists by right: what was there before a test, and what was made in it for longer than it.

    Args:
        marks: What tells that something is ours which no process of ours holds.
        ignore: Shell patterns of what does not count, each of ``KIND:TEXT``, such as ``descriptor:*/dev/urandom``.
    """

    def __init__(self, marks: Marks, ignore: Sequence[str] = ()) -> None:
        self.marks = marks
        self._ignore = tuple(ignore)
        self._known: frozenset[Thing] = frozenset()
        self._lasting: dict[object, frozenset[Thing]] = {}

    def open(self) -> None:
        """Take what is there now as being there by right."""
        self._known = survey(self.marks)

    @contextlib.contextmanager
    def lasting(self, owner: object) -> Iterator[None]:
        """Take what is made meanwhile as being there by right until its owner gives it up.

        Args:
            owner: Who has it: anything that can be a key.
        """
        before = survey(self.marks)
        self._forget_closed(before)
        yield  # what is left by something that failed is nobody's
        # What somebody within has taken already stays theirs; of its own it may have the like again.
        others = [things for other, things in self._lasting.items() if other != owner]
        made = survey(self.marks) - before - frozenset().union(*others)
        self._lasting[owner] = self._lasting.get(owner, frozenset()) | made
        self._known |= made

    def _forget_closed(self, there: frozenset[Thing]) -> None:
        """Forget descriptors of ours that are closed: the next one of that number may be another's."""
        for owner, things in self._lasting.items():
            self._lasting[owner] = frozenset(
                thing for thing in things if thing.kind is not Kind.DESCRIPTOR or thing in there
            )

    def release(self, owner: object) -> None:
        """Expect what an owner had to be gone, or to belong to the present test; harmless if it had nothing."""
        self._known -= self._lasting.pop(owner, frozenset())

    def left(self, *, without: Iterable[Kind] = ()) -> list[Thing]:
        """Return what is there now and not by right.

        Args:
            without: Kinds that are not looked at.
        """
        found = survey(self.marks) - self._known
        kinds = set(without)
        return sorted(thing for thing in found if thing.kind not in kinds and not self._ignored(thing))

    def close(self, deadline: Deadline, *, without: Iterable[Kind] = ()) -> None:
        """Wait until nothing is left.

        Args:
            deadline: When to give up.
            without: Kinds that are not looked at.

        Raises:
            LeakError: Something still is; it has the list.
        """
        without = tuple(without)
        collected = False
        while left := self.left(without=without):
            if not collected:
                collected = True
                gc.collect()  # a descriptor may only wait for that
                continue
            if deadline.expired:
                raise _leak(left, self._known, deadline)
            _await_change(left, deadline)

    def assert_clean(self, *, within: float) -> None:
        """Wait until nothing is left of what a test has others make; our own descriptors may still be open.

        What is left is removed by force, so that it is found once.

        Args:
            within: Seconds that it may take.

        Raises:
            AssertionError: Something still is: what was tested has broken a promise, not the test.
        """
        try:
            self.close(Deadline(within), without=(Kind.DESCRIPTOR,))
        except LeakError as error:
            remove_by_force(self.left(without=(Kind.DESCRIPTOR,)))
            raise AssertionError(error.message) from None

    def _ignored(self, thing: Thing) -> bool:
        return any(fnmatch.fnmatchcase(f"{thing.kind}:{thing.text}", pattern) for pattern in self._ignore)


def _leak(left: list[Thing], known: frozenset[Thing], deadline: Deadline) -> LeakError:
    """Return the error; a mount namespace that came with a process is told by that process."""
    namespaces = {thing.namespace for thing in known}
    shown = [thing for thing in left if thing.kind is not Kind.MOUNT or thing.namespace in {0, *namespaces}]
    texts = [f"{thing.kind} {explained(thing)}" if thing.kind is Kind.DESCRIPTOR else str(thing) for thing in shown]
    more = f" and {len(shown) - 1} more" if len(shown) > 1 else ""
    return LeakError(
        f"left behind, {deadline.elapsed:.1f} s after the end: {texts[0]}{more}\n"
        + "\n".join(f"  + {text}" for text in texts),
        things=texts,
    )


def _await_change(left: list[Thing], deadline: Deadline) -> None:
    """Wait until a process has ended or a mount has changed, or for long enough that something else may have."""
    poll = select.poll()
    with contextlib.ExitStack() as opened:
        for thing in left:
            if thing.kind is Kind.PROCESS:
                with contextlib.suppress(OSError):
                    pidfd = os.pidfd_open(thing.pid)
                    opened.callback(os.close, pidfd)
                    poll.register(pidfd, select.POLLIN)
        table = opened.enter_context(open("/proc/self/mountinfo", "rb"))
        poll.register(table, select.POLLPRI)
        remaining = deadline.remaining_ms
        poll.poll(_AGAIN_MS if remaining is None else min(_AGAIN_MS, remaining))
