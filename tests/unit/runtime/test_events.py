# SPDX-License-Identifier: Apache-2.0
"""What is awaited of events, and what is said if it does not come."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from kvtest.errors import DeadlineExceededError
from kvtest.rpc.api import load
from kvtest.runtime import events


def envelope(type_url: str, value: bytes) -> Any:
    kind = load("events").message("containerd.services.events.ttrpc.v1.Envelope")
    return kind(topic="/tasks/exit", event={"type_url": type_url, "value": value})


def exit_of(name: str, process: str, status: int) -> events.Event:
    return events.make("TaskExit", container_id=name, id=process, exit_status=status)


def test_an_event_is_found_that_came_before_and_awaited_that_comes_later() -> None:
    log = events.EventLog()
    log.add(exit_of("pod", "pod", 3))
    assert log.expect("TaskExit", "pod", status=3, within=1.0).message.exit_status == 3
    threading.Thread(target=log.add, args=(exit_of("pod", "exec-1", 4),)).start()
    assert log.expect("TaskExit", "pod", process="exec-1", status=4, within=10.0).process == "exec-1"
    assert len(log.of("pod", "TaskExit", "")) == 1


def test_another_status_is_told_at_once() -> None:
    log = events.EventLog()
    log.add(exit_of("pod", "pod", 0))
    with pytest.raises(AssertionError, match="the event tells exit status 0 and not 137: TaskExit pod status 0"):
        log.expect("TaskExit", "pod", status=137, within=60.0)


def test_what_came_instead_is_the_evidence() -> None:
    log = events.EventLog()
    log.add(exit_of("other", "other", 1))
    with pytest.raises(DeadlineExceededError, match=r"the event TaskExit of pod; last seen: TaskExit other status 1"):
        log.expect("TaskExit", "pod", within=0.01)


def test_events_that_are_not_of_tasks_are_left_out() -> None:
    assert events.decode(envelope("containerd.events.ContainerCreate", b"")) is None
    assert events.decode(envelope("containerd.events.TaskUnheardOf", b"")) is None
    event = exit_of("pod", "exec-1", 9)
    again = events.decode(envelope("type.googleapis.com/containerd.events.TaskExit", event.message.SerializeToString()))
    assert again is not None
    assert (again.kind, again.container, again.process, again.topic) == ("TaskExit", "pod", "exec-1", "/tasks/exit")
