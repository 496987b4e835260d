# SPDX-License-Identifier: Apache-2.0
"""What is published: everything, and nothing twice. Events are not ordered with the answers to calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from kvtest import Pod, Pods, Status, requirement
from kvtest.runtime import ExitStatus, Sink
from kvtest.runtime.backend import NAMESPACE
from kvtest.runtime.events import TOPICS, Event

PATIENCE = 10.0
FOREVER = ["sleep", "1000"]

pytestmark = pytest.mark.capability("runtime")


def assert_places(events: Sequence[Event]) -> None:
    """See that each is published where containerd's clients listen for its kind."""
    wrong = [event for event in events if (event.topic, event.namespace) != (TOPICS[event.kind], NAMESPACE)]
    assert not wrong, ", ".join(
        f"{event.kind} was published under {event.topic} in {event.namespace}" for event in wrong
    )


@requirement("RUNTIME-EVENT-001", "RUNTIME-EVENT-005", "RUNTIME-EVENT-006")
def test_each_step_is_published_once(pod: Pod) -> None:
    container = pod.run(["sh", "-c", "exit 6"])
    pid, bundle = container.pid, pod.bundle(container.id)
    waited = container.wait(PATIENCE)
    pod.events.expect("TaskExit", container.id, status=6, within=PATIENCE)
    container.delete()
    pod.events.expect("TaskDelete", container.id, status=6, within=PATIENCE)
    pod.shim.wait(PATIENCE)  # after which it publishes nothing any more
    events = pod.events.of(container.id)
    assert [event.kind for event in events] == ["TaskCreate", "TaskStart", "TaskExit", "TaskDelete"]
    assert {event.message.pid for event in events} == {pid}
    assert Path(events[0].message.bundle) == bundle
    assert [ExitStatus.of(event.message) for event in events[2:]] == [waited, waited]
    assert_places(events)


@requirement("RUNTIME-EVENT-002", "RUNTIME-EVENT-005", "RUNTIME-EVENT-006")
def test_processes_beside_the_first_are_published_once(pod: Pod) -> None:
    container = pod.run(FOREVER)
    processes = [container.exec(["sh", "-c", f"exit {status}"]) for status in (0, 4)]
    for process, status in zip(processes, (0, 4), strict=True):
        waited = process.wait(PATIENCE)
        event = pod.events.expect("TaskExit", container.id, process=process.name, status=status, within=PATIENCE)
        assert ExitStatus.of(event.message) == waited
        process.delete()
    container.kill()
    container.wait(PATIENCE)
    pod.events.expect("TaskExit", container.id, status=137, within=PATIENCE)
    container.delete()
    pod.events.expect("TaskDelete", container.id, within=PATIENCE)
    pod.shim.wait(PATIENCE)
    for process in processes:
        events = [event for event in pod.events.of(container.id, process=process.name) if event.kind != "TaskDelete"]
        assert [event.kind for event in events] == ["TaskExecAdded", "TaskExecStarted", "TaskExit"]
        assert [event.message.pid for event in events[1:]] == [process.pid, process.pid]
        assert_places(events)


@requirement("RUNTIME-EVENT-003", "RUNTIME-EVENT-005", "RUNTIME-EVENT-006")
@pytest.mark.capability("runtime-pause")
def test_pause_and_resumption_are_published_once(pod: Pod) -> None:
    container = pod.run(FOREVER)
    container.pause()
    pod.events.expect("TaskPaused", container.id, within=PATIENCE)
    container.resume()
    pod.events.expect("TaskResumed", container.id, within=PATIENCE)
    container.kill()
    container.wait(PATIENCE)
    container.delete()
    pod.events.expect("TaskDelete", container.id, within=PATIENCE)
    pod.shim.wait(PATIENCE)
    assert len(pod.events.of(container.id, "TaskPaused")) == 1
    assert len(pod.events.of(container.id, "TaskResumed")) == 1
    assert_places(pod.events.of(container.id))


@requirement("RUNTIME-EVENT-004")
@pytest.mark.parametrize("sink", [Sink.MUTE, Sink.DEAD], ids=str)
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_a_container_is_served_though_nobody_takes_events(pods: Pods, sink: Sink) -> None:
    pod = pods.start(sink=sink)
    bound = pod.profile.call_bound
    container = pod.create(FOREVER, within=bound)
    container.start(bound)
    assert container.output_of(["echo", "here"], bound) == b"here\n"
    assert container.state(bound) is Status.RUNNING
    container.kill(within=bound)
    assert container.wait(bound).status == 137
    container.delete(bound)
