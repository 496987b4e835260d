# SPDX-License-Identifier: Apache-2.0
"""Events to containerd, in order and without anybody waiting for them."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from typing import Any

from kvtest.deadline import Deadline
from kvtest.errors import KvtestError
from kvtest.rpc.api import Service, load
from kvtest.rpc.client import Client

_EVENTS = "containerd.services.events.ttrpc.v1"
_TOPICS = {
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
_PATIENCE = 2.0  # seconds for one event, and for the last ones together


class Publisher:
    """Sends events.

    Args:
        address: Socket of the events service; events go nowhere without one.
        namespace: containerd's namespace.
    """

    def __init__(self, address: str | None, namespace: str) -> None:
        self._address = address
        self._namespace = namespace
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._client: Client | None = None
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def publish(self, event: str, **fields: Any) -> None:
        """Send an event, some time.

        Args:
            event: Name of the message, such as ``TaskExit``.
            **fields: What it holds.
        """
        message = load("task").message(f"containerd.events.{event}")(**fields)
        now = time.time_ns()
        self._queue.put(
            load("events").message(f"{_EVENTS}.ForwardRequest")(
                envelope={
                    "timestamp": {"seconds": now // 10**9, "nanos": now % 10**9},
                    "namespace": self._namespace,
                    "topic": _TOPICS[event],
                    "event": {"type_url": f"containerd.events.{event}", "value": message.SerializeToString()},
                }
            )
        )

    def close(self) -> None:
        """Send what is left, as far as somebody takes it soon."""
        self._queue.put(None)
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        while (request := self._queue.get()) is not None:
            # What cannot be delivered is lost: an event must not hold anybody up.
            with contextlib.suppress(KvtestError, OSError):
                self._send(request)

    def _send(self, request: Any) -> None:
        if not self._address:
            return
        if self._client is None or self._client.lost is not None:
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stream.settimeout(_PATIENCE)
            try:
                stream.connect(self._address)
            except OSError:
                stream.close()
                raise
            self._client = Client(stream, "containerd")
        service = Service(self._client, load("events"), f"{_EVENTS}.Events")
        service.call("Forward", request, deadline=Deadline(_PATIENCE))
