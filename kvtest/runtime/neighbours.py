# SPDX-License-Identifier: Apache-2.0
"""A pod that goes on, whatever happens to others."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from kvtest.runtime.container import PATIENCE as LONG
from kvtest.runtime.container import Container
from kvtest.runtime.phases import PATIENCE
from kvtest.runtime.pod import Pod


@contextlib.contextmanager
def undisturbed(pod: Pod) -> Iterator[Container]:
    """Have a container of a pod live through what is done to others, and see then that it has not noticed.

    Args:
        pod: The pod.

    Raises:
        AssertionError: It has: an input, an output, a call or an event says so.
    """
    container = pod.run(["cat"], stdin=True)
    waiting = container.waiting(LONG)
    yield container
    container.stdin.write(b"alive\n", PATIENCE)
    assert container.stdout.read_until(b"\n", PATIENCE) == b"alive\n"
    assert container.output_of(["echo", "here"]) == b"here\n"
    assert pod.events.of(container.id, "TaskExit", "") == []
    container.kill()
    assert waiting.result(PATIENCE).status == 128 + signal.SIGKILL
