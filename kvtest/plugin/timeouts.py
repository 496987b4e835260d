# SPDX-License-Identifier: Apache-2.0
"""A test that does not end: evidence first, then it fails, and the run goes on.

The time of a test is watched by a timer whose signal is handled by the main thread, which runs the tests: whatever
they wait in ends with the exception that tells so. What a signal cannot interrupt is not Python, and not ours.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

import pytest

from kvtest.plugin.collection import is_ours

# What takes the exception for one of its own, or has more to clean up than it ends within this, gets another, which is
# no Exception.
_AGAIN_SECONDS = 10.0

if TYPE_CHECKING:
    from types import FrameType

    from kvtest.deadline import Deadline
    from kvtest.errors import DeadlineExceededError

_watched: list[Deadline] = []


class _ExpiredError(pytest.fail.Exception):  # type: ignore[name-defined,misc]
    """Ends what takes every ``Exception`` for one of its own, such as a loop that tries for ever.

    Like all outcomes of pytest it is no ``Exception``, and does not keep it from the fixtures that are still to end.
    """


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Watch the test's fixtures."""
    return (yield from _watch(item, "the fixtures of the test to be ready"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Watch the test."""
    return (yield from _watch(item, "the test to end"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Watch what ends the fixtures."""
    return (yield from _watch(item, "the fixtures of the test to end"))


def _watch(item: pytest.Item, awaited: str) -> Generator[None, None, None]:
    try:
        with watched(item, awaited):
            return (yield)
    except BaseException as caught:  # outside of the context manager, which would restore the traceback
        _complete_lines(caught)
        raise


@contextlib.contextmanager
def watched(item: pytest.Item, awaited: str) -> Iterator[None]:
    """Fail what takes longer than a test may.

    Args:
        item: The test.
        awaited: What is awaited, for the message.

    Raises:
        DeadlineExceededError: It took longer; the evidence is in the test's artifacts.
    """
    if not is_ours(item) or threading.current_thread() is not threading.main_thread():
        yield
        return
    from kvtest.deadline import Deadline
    from kvtest.plugin.evidence import keep_diagnosis
    from kvtest.plugin.session import session_of

    deadline = Deadline(session_of(item.config).settings.test_timeout)
    _watched.append(deadline)
    error: DeadlineExceededError | None = None

    def expire(number: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        nonlocal error
        if not deadline.expired:  # an alarm of the test's own
            if callable(before):
                before(number, frame)
            return
        if error is not None:
            raise _ExpiredError(error.message)
        error = deadline.exceeded(awaited)
        keep_diagnosis(item)
        raise error

    before = signal.signal(signal.SIGALRM, expire)
    theirs = signal.setitimer(signal.ITIMER_REAL, deadline.remaining or 0.0, _AGAIN_SECONDS)
    try:
        yield
    except _ExpiredError as expired:
        assert error is not None
        raise error.with_traceback(expired.__traceback__) from None
    finally:
        _watched.remove(deadline)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        if theirs[0]:  # one that a fixture has set goes on
            signal.setitimer(signal.ITIMER_REAL, *theirs)
    if deadline.expired:  # the test has caught the exception, or has put the alarm off
        raise error or deadline.exceeded(awaited)


@contextlib.contextmanager
def suspended() -> Iterator[None]:
    """Do something once that is not the test's to wait for; its time goes on after it."""
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0.0)
    begin = time.monotonic()
    try:
        yield
    finally:
        if left:  # and nobody further out has put it off already
            for deadline in _watched:
                deadline.extend(time.monotonic() - begin)
        signal.setitimer(signal.ITIMER_REAL, left, interval)


def _complete_lines(error: BaseException) -> None:
    """Give each entry of an exception's tracebacks a line.

    A signal may be handled at an instruction of the compiler's own, such as a loop's jump back, which belongs to none;
    pytest takes the ``None`` for an internal error of its own and ends the run.
    """
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        entries = []
        entry = following.__traceback__
        while entry is not None:
            entries.append(entry)
            entry = entry.tb_next
        if None in [entry.tb_lineno for entry in entries]:
            complete: TracebackType | None = None
            for entry in reversed(entries):
                code = entry.tb_frame.f_code
                line: int | None = entry.tb_lineno  # typeshed does not know that it may have none
                complete = TracebackType(complete, entry.tb_frame, entry.tb_lasti, line or code.co_firstlineno)
            following.__traceback__ = complete
        following = following.__cause__ or following.__context__
