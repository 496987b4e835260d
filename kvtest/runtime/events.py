# SPDX-License-Identifier: Apache-2.0
"""What happened to tasks, as shims and containerd tell it."""

from __future__ import annotations

import threading
import time
from typing import Any

from attrs import define, field
from google.protobuf.message import Message

from kvtest.deadline import Deadline
from kvtest.rpc.api import load

TOPICS = {
    "TaskCreate": "/tasks/create",
    "TaskStart": "/tasks/start",
    "TaskExit": "/tasks/exit",
    "TaskDelete": "/tasks/delete",
    "TaskOOM": "/tasks/oom",
    "TaskExecAdded": "/tasks/exec-added",
    "TaskExecStarted": "/tasks/exec-started",
    "TaskPaused": "/tasks/paused",
    "TaskResumed": "/tasks/resumed",
}
"""Under what each kind is published (containerd, core/runtime/events.go)."""

_PACKAGE = "containerd.events."


@define
class Event:
    """One event.

    Args:
        kind: Its type without the package, such as ``TaskExit``.
        message: What it says.
        topic: What it was published under; empty for one of ours.
        namespace: containerd's namespace that it was published in; empty for one of ours.
        at: When it came, on the monotonic clock.
        ours: Whether it was published in containerd's part, after a shim was lost, and not by the shim.
    """

    kind: str
    message: Any
    topic: str = ""
    namespace: str = ""
    at: float = field(factory=time.monotonic)
    ours: bool = False

    @property
    def container(self) -> str:
        """ID of the container that it is about."""
        return str(self.message.container_id)

    @property
    def process(self) -> str:
        """ID of the process beside the container's first one that it is about; empty if it is about none."""
        name = str(getattr(self.message, "exec_id", "") or getattr(self.message, "id", ""))
        return "" if name == self.container else name

    def __str__(self) -> str:
        status = f" status {self.message.exit_status}" if hasattr(self.message, "exit_status") else ""
        return f"{self.kind} {self.container}{'/' if self.process else ''}{self.process}{status}"


def decode(envelope: Any) -> Event | None:
    """Return an event from the ``Envelope`` that it travels in; ``None`` if it is not about a task."""
    name = envelope.event.type_url.rpartition("/")[2]
    if not name.startswith(f"{_PACKAGE}Task"):
        return None
    try:
        kind = load("task").message(name)
    except KeyError:  # a kind that nobody asks for
        return None
    return Event(name.removeprefix(_PACKAGE), kind.FromString(envelope.event.value), envelope.topic, envelope.namespace)


def make(kind: str, **fields: Any) -> Event:
    """Return an event as containerd publishes it when it has cleaned up after a shim."""
    message: Message = load("task").message(f"{_PACKAGE}{kind}")(**fields)
    return Event(kind, message, ours=True)


class EventLog:
    """The events of one pod, in the order in which they came."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._changed = threading.Condition()

    def add(self, event: Event) -> None:
        """Take an event."""
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def of(self, container: str | None = None, kind: str | None = None, process: str | None = None) -> list[Event]:
        """Return what came so far.

        Args:
            container: Only of this container.
            kind: Only of this kind.
            process: Only about this process; the container's first one is the empty string.
        """
        with self._changed:
            return [
                event
                for event in self._events
                if (container is None or event.container == container)
                and (kind is None or event.kind == kind)
                and (process is None or event.process == process)
            ]

    def expect(
        self,
        kind: str,
        container: str,
        *,
        within: Deadline | float,
        process: str = "",
        status: int | None = None,
        count: int = 1,
    ) -> Event:
        """Wait for an event, unless it has come already, and return it.

        Args:
            kind: Its type, such as ``TaskExit``.
            container: The container.
            within: When to give up.
            process: The process, if not the container's first one.
            status: The exit status that it has to tell.
            count: Which one of them, from 1.

        Raises:
            DeadlineExceededError: It did not come.
            AssertionError: It tells another exit status.
        """
        deadline = Deadline.of(within)
        with self._changed:
            while len(found := self.of(container, kind, process)) < count:
                if not self._changed.wait(deadline.remaining) and deadline.expired:
                    name = f"{container}/{process}" if process else container
                    raise deadline.exceeded(
                        f"the event {kind} of {name}", ", ".join(map(str, self._events)) or "no event at all"
                    )
        event = found[count - 1]
        if status is not None and event.message.exit_status != status:
            raise AssertionError(f"the event tells exit status {event.message.exit_status} and not {status}: {event}")
        return event
