# SPDX-License-Identifier: Apache-2.0
"""The events service takes what containerd would take."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvtest.errors import RPCError
from kvtest.rpc.api import Service, load
from kvtest.rpc.client import Client
from kvtest.rpc.status import Code
from kvtest.runtime.events import Event, make
from kvtest.runtime.sink import EventService

_EVENTS = "containerd.services.events.ttrpc.v1"
_GOOD = {"timestamp": {"seconds": 1}, "namespace": "kvtest", "topic": "/tasks/exit"}


@contextlib.contextmanager
def served(path: Path, taken: list[Event]) -> Iterator[Service]:
    service = EventService(path, taken.append)
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(str(path))
    client = Client(stream, "the sink")
    try:
        yield Service(client, load("events"), f"{_EVENTS}.Events")
    finally:
        client.close()
        service.close()


def forwarded(**envelope: Any) -> Any:
    message = make("TaskExit", container_id="c", id="c", exit_status=3).message
    event = {"type_url": "containerd.events.TaskExit", "value": message.SerializeToString()}
    return load("events").message(f"{_EVENTS}.ForwardRequest")(envelope={"event": event, **envelope})


def test_an_event_is_taken_with_its_topic(tmp_path: Path) -> None:
    taken: list[Event] = []
    with served(tmp_path / "sink", taken) as service:
        service.call("Forward", forwarded(**_GOOD), deadline=20)
    assert [(event.kind, event.container, event.topic) for event in taken] == [("TaskExit", "c", "/tasks/exit")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"namespace": ""},
        {"namespace": "a b"},
        {"topic": ""},
        {"topic": "tasks/exit"},
        {"topic": "/"},
        {"timestamp": {}},
    ],
    ids=str,
)
def test_an_event_that_containerd_would_refuse_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    taken: list[Event] = []
    with served(tmp_path / "sink", taken) as service, pytest.raises(RPCError) as caught:
        service.call("Forward", forwarded(**{**_GOOD, **wrong}), deadline=20)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert taken == []
