# SPDX-License-Identifier: Apache-2.0
"""What is kept of a test: its guest's console while it ran, and where the guest's own files are."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kvtest.harness import RunningMachine
    from kvtest.runtime import Pods

_KEY = pytest.StashKey["RunningMachine"]()
PODS: pytest.StashKey[Pods] = pytest.StashKey()
"""What makes the pods of a test, if it has some."""
_DIAGNOSIS_SECONDS = 5.0
_DIAGNOSED = pytest.StashKey[bool]()


@contextlib.contextmanager
def gathered(item: pytest.Item, guest: RunningMachine, artifacts: Path) -> Iterator[None]:
    """Keep what ``guest`` says during a test.

    Args:
        item: The test.
        guest: Its guest.
        artifacts: Its artifact directory.
    """
    from kvtest.plugin.session import session_of

    session_of(item.config).own(guest)
    item.stash[_KEY] = guest
    for name, value in guest.properties.items():
        item.user_properties.append((name, value))
    mark = guest.vm.console.size
    link = artifacts / "guest"
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(guest.vm.artifacts, artifacts))
    try:
        yield
    finally:
        (artifacts / "console.log").write_text(guest.vm.console.text(mark))


def keep_diagnosis(item: pytest.Item) -> Path:
    """Write down what can still be learnt of a test that something took too long in, once.

    Returns:
        The file.
    """
    from kvtest.harness.diagnosis import diagnose
    from kvtest.plugin.session import session_of

    path = session_of(item.config).artifacts(item) / "timeout.txt"
    if _DIAGNOSED not in item.stash:
        item.stash[_DIAGNOSED] = True

        def write() -> None:
            with path.open("w") as stream:
                for section in diagnose(guest_of(item)):
                    stream.write(section)
                    stream.flush()

        # On a thread of its own: whoever is interrupted may hold a lock that one of the questions needs.
        writer = threading.Thread(target=write, name="kvtest-diagnosis", daemon=True)
        writer.start()
        writer.join(_DIAGNOSIS_SECONDS)
    return path


def keep_pods(item: pytest.Item) -> None:
    """Keep what tells of the pods of a test that has failed; they may be gone after it.

    Args:
        item: The test.
    """
    pods = item.stash.get(PODS, None)
    if pods is None or not pods.in_use:
        return
    from kvtest.plugin.session import session_of
    from kvtest.runtime.evidence import keep

    for pod in pods.in_use:
        keep(pod, session_of(item.config).artifacts(item) / "pods" / pod.id)


def guest_of(item: pytest.Item) -> RunningMachine | None:
    """Return the guest that a test has or had."""
    return item.stash.get(_KEY, None)
