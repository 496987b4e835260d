# SPDX-License-Identifier: Apache-2.0
"""Work on several threads that a Ctrl-C can leave behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def at_once(*jobs: Callable[[], T]) -> list[T]:
    """Run functions at once and return their results in order; the first error in order is raised.

    An executor would wait for its threads when a KeyboardInterrupt comes, however long they take. These are left
    behind: they end with the process, and with it the keeper ends what they have started.

    Args:
        jobs: The functions.
    """
    futures: list[Future[T]] = []
    for number, job in enumerate(jobs):
        future: Future[T] = Future()
        futures.append(future)
        threading.Thread(target=_run, args=(job, future), name=f"kvtest-job-{number}", daemon=True).start()
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error
    return [future.result() for future in futures]


def _run(job: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(job())
    except BaseException as error:
        future.set_exception(error)
