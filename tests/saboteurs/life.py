# SPDX-License-Identifier: Apache-2.0
"""Ways to break what a shim tells of the lives of its processes, and the order of their steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from kvtest.deadline import Deadline
from kvtest.rpc.api import load
from kvtest.rpc.envelope import Request, Response
from kvtest.rpc.server import Call
from kvtest.rpc.status import Code
from kvtest.runtime.sink import EventService
from kvtest.runtime.tasks import ShimTasks
from tests.saboteurs.registry import breaks
from tests.saboteurs.wire import Fault, asked, between, ok

# --- Steps


@breaks("RUNTIME-LIFE-006")
@contextlib.contextmanager
def runs_at_once() -> Iterator[None]:
    """Whatever is created runs, and its start does nothing."""
    create, execute, start = ShimTasks.create, ShimTasks.exec, ShimTasks.start
    pids: dict[tuple[str, str], int] = {}

    def created(self: ShimTasks, deadline: Deadline, **fields: Any) -> int:
        pid = create(self, deadline, **fields)
        return pids.setdefault((fields["id"], ""), start(self, fields["id"], "", deadline) and pid)

    def added(self: ShimTasks, name: str, process: str, spec: Any, streams: Any, deadline: Deadline) -> None:
        execute(self, name, process, spec, streams, deadline)
        pids[name, process] = start(self, name, process, deadline)

    def started(_self: ShimTasks, name: str, process: str, _deadline: Deadline) -> int:
        return pids[name, process]

    with (
        patch.object(ShimTasks, "create", created),
        patch.object(ShimTasks, "exec", added),
        patch.object(ShimTasks, "start", started),
    ):
        yield


@breaks("RUNTIME-LIFE-007")
@contextlib.contextmanager
def does_everything_again() -> Iterator[None]:
    """What is refused since it has happened is said to have been done."""

    class Does(Fault):
        def response(self, request: Request, response: Response) -> Response | None:
            return ok() if request.method in ("Create", "Start", "Exec", "Kill") and response.code else response

    with between(Does()):
        yield


# --- Ends


@breaks("RUNTIME-LIFE-001")
@contextlib.contextmanager
def forgets_when_it_ended() -> Iterator[None]:
    """Whoever asks for the state of what has ended is not told when that was."""

    class Forgets(Fault):
        def response(self, request: Request, response: Response) -> Response | None:
            if request.method != "State" or response.code:
                return response
            message = load("task").message("containerd.task.v2.StateResponse").FromString(response.payload)
            message.ClearField("exited_at")
            return Response(0, "", message.SerializeToString())

    with between(Forgets()):
        yield


@breaks("RUNTIME-EXIT-004")
@contextlib.contextmanager
def forgets_what_ends_with_its_container() -> Iterator[None]:
    """Whoever waits for a process beside the first is told that there is none."""

    class Forgets(Fault):
        def response(self, request: Request, response: Response) -> Response | None:
            beside = request.method == "Wait" and asked(request, "WaitRequest").exec_id
            return Response(Code.NOT_FOUND, "it has gone with its container", b"") if beside else response

    with between(Forgets()):
        yield


# --- Events


@contextlib.contextmanager
def _publishing(change: Callable[[Any, Any], None], kind: str) -> Iterator[None]:
    """Change the envelopes, and the messages in them, of the events of a kind."""
    forward = EventService._forward
    request = load("events").message("containerd.services.events.ttrpc.v1.ForwardRequest")

    def broken(self: EventService, call: Call) -> bytes:
        forwarded = request.FromString(call.payload)
        envelope = forwarded.envelope
        if envelope.event.type_url.endswith(kind):
            message = load("task").message(envelope.event.type_url).FromString(envelope.event.value)
            change(envelope, message)
            envelope.event.value = message.SerializeToString()
            call.payload = forwarded.SerializeToString()
        return forward(self, call)

    with patch.object(EventService, "_forward", broken):
        yield


@breaks("RUNTIME-EVENT-005")
@contextlib.contextmanager
def publishes_under_another_topic() -> Iterator[None]:
    """A resumption is published where nobody listens for it."""

    def change(envelope: Any, _message: Any) -> None:
        envelope.topic = "/other/topic"

    with _publishing(change, "TaskResumed"):
        yield


@breaks("RUNTIME-EVENT-006")
@contextlib.contextmanager
def publishes_in_another_namespace() -> Iterator[None]:
    """A resumption is published in a namespace where nobody has the container."""

    def change(envelope: Any, _message: Any) -> None:
        envelope.namespace = "elsewhere"

    with _publishing(change, "TaskResumed"):
        yield


@breaks("RUNTIME-EVENT-001")
@contextlib.contextmanager
def publishes_another_time() -> Iterator[None]:
    """The end of a container is published with another time than who waits is told."""

    def change(_envelope: Any, message: Any) -> None:
        message.exited_at.seconds = 1

    with _publishing(change, "TaskExit"):
        yield


@breaks("RUNTIME-EVENT-002")
@contextlib.contextmanager
def publishes_another_process() -> Iterator[None]:
    """The start of a process is published with the ID of another."""

    def change(_envelope: Any, message: Any) -> None:
        message.pid = 1

    with _publishing(change, "TaskExecStarted"):
        yield
