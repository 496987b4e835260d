# SPDX-License-Identifier: Apache-2.0
"""In a lab host: what its kernel complains of fails the test during which it did.

On other hosts a kernel has much to tell that no test has to do with. A lab host has nothing to do but the tests.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from kvtest.host.kernel_log import WATCHED, KernelLog
from kvtest.plugin.collection import is_ours

_LOG: pytest.StashKey[KernelLog] = pytest.StashKey()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin to watch, if that is wanted."""
    device = os.environ.get(WATCHED)
    if device:
        session.config.stash[_LOG] = KernelLog(Path(device))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Watch no more."""
    log = session.config.stash.get(_LOG, None)
    if log is not None:
        log.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test during which the kernel has complained, or before which, while its fixtures were set up."""
    return (yield from _watched(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test after which the kernel has complained, while its fixtures were torn down."""
    return (yield from _watched(item))


def _watched(item: pytest.Item) -> Generator[None, None, None]:
    log = item.config.stash.get(_LOG, None)
    if log is None or not is_ours(item):
        return (yield)
    try:
        result = yield
    except BaseException as error:
        for complaint in log.complaints():
            error.add_note(f"the host's kernel complained: {complaint}")
        raise
    complaints = log.complaints()
    if complaints:
        from kvtest.errors import HostKernelError

        raise HostKernelError(f"the host's kernel complained: {'; '.join(complaints)}", hint="see its log, dmesg")
    return result
