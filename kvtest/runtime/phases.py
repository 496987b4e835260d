# SPDX-License-Identifier: Apache-2.0
"""The phases in the life of a container in which something can die."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvtest.runtime.container import Container
from kvtest.runtime.pod import Pod
from kvtest.runtime.pods import Pods
from kvtest.runtime.profile import Feature

PATIENCE = 10.0
FOREVER = ["sleep", "1000"]
ALIVE = ("created", "running", "exec", "output", "input", "paused")
PHASES = (*ALIVE, "ended")


def reach(pod: Pod, phase: str, name: str | None = None) -> Container:
    """Bring a container of a pod into a phase of its life.

    Args:
        pod: The pod.
        phase: One of :data:`PHASES`.
        name: The ID of the container; chosen if ``None``.
    """
    flood = ["sh", "-c", "echo started; yes"]
    command = {"output": flood, "input": ["cat"], "ended": ["true"]}.get(phase, FOREVER)
    container = pod.create(command, name=name, stdin=phase == "input")
    if phase != "created":
        container.start()
    if phase in ("exec", "output"):
        output = (container.exec(flood) if phase == "exec" else container).stdout
        output.read_until(b"started\n", PATIENCE)
        output.drain()  # a shim may wait for its reader before it tells of an end
    if phase == "input":
        container.stdin.write(b"hello\n", PATIENCE)
        container.stdout.read_until(b"hello\n", PATIENCE)
    if phase == "paused":
        container.pause()
    if phase == "ended":
        container.wait(PATIENCE)
    return container


def reach_all(pods: Pods, phases: Sequence[str] = PHASES) -> list[Pod]:
    """Start pods that have, all together, a container in each phase that the runtime knows.

    One pod has them all where the runtime has several containers in one, and each but the first says by its ID in which
    phase it is. Whatever is found of it later tells by that in which phase it was not looked after. The first one is a
    pod's sandbox, and started: a runtime may start no other before that.

    Args:
        pods: Starts them.
        phases: Some of :data:`PHASES`.
    """
    features = pods.runtime.installation.profile.features
    known = [phase for phase in phases if phase != "paused" or Feature.PAUSE in features]
    if Feature.GROUP not in features:
        started = [pods.start() for _ in known]
        for pod, phase in zip(started, known, strict=True):
            reach(pod, phase)
        return started
    pod = pods.start()
    for number, phase in enumerate(sorted(known, key="created".__eq__)):
        reach(pod, phase, None if number == 0 else f"{pod.id}-{phase}")
    return [pod]


def live_again(pod: Pod, name: str, ended: Callable[[], None] = lambda: None) -> None:
    """Have a container live from creation to deletion under an ID that one had before.

    Args:
        pod: The pod.
        name: The ID.
        ended: Called when it has ended, and before it is deleted.

    Raises:
        AssertionError: It has not lived as the first one of its ID would.
    """
    again = pod.create(["sh", "-c", "echo again; exit 8"], name=name)
    again.start()
    assert again.wait(PATIENCE).status == 8
    assert again.stdout.read_all(PATIENCE) == b"again\n"
    ended()
    assert again.delete().status == 8
