# SPDX-License-Identifier: Apache-2.0
"""The Task API of one pod."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvtest.deadline import Deadline
from kvtest.errors import KvtestError, RPCError
from kvtest.rpc.api import API, load
from kvtest.rpc.status import Code
from kvtest.runtime.reference import guest_spec
from kvtest.runtime.reference.container import Container
from kvtest.runtime.reference.machine import Machine
from kvtest.runtime.reference.process import LOST, Process, Status, Stdio
from kvtest.runtime.reference.publisher import Publisher
from kvtest.runtime.reference.server import Later
from kvtest.runtime.reference.state import TASK

_METRICS = "io.containerd.cgroups.v1.Metrics"


class Tasks:
    """The containers of a pod, and what can be asked of them.

    Args:
        machine: Makes the pod's machine; called with what is to be told of its loss.
        publisher: Takes events.
        removed: Called with the ID of a container that the pod does not have any more, or has not come to have.
        finished: Called when the shim is to end.
    """

    def __init__(
        self,
        machine: Callable[[Callable[[str], None]], Machine],
        publisher: Publisher,
        removed: Callable[[str], None],
        finished: Callable[[], None],
    ) -> None:
        self.api: API = load("task")
        self._publisher = publisher
        self._removed = removed
        self._finished = finished
        self._lock = threading.Lock()
        self._containers: dict[str, Container] = {}
        self._loss: str | None = None
        self._last_pid = 0
        self._machine = machine(self._lost)
        threading.Thread(target=self._watch_memory, name="oom", daemon=True).start()

    def methods(self) -> dict[str, Callable[[Any], Any]]:
        """Return what is served."""
        return {
            name: getattr(self, f"_{name.lower()}")
            for name in (
                *("Connect", "Create", "Start", "Exec", "State", "Wait", "Kill", "Pids", "Stats", "Pause", "Resume"),
                *("CloseIO", "ResizePty", "Update", "Delete", "Shutdown"),
            )
        }

    # --- The pod

    @property
    def _pid(self) -> int:
        """QEMU's process ID, also after its end."""
        with contextlib.suppress(KvtestError):
            self._last_pid = self._machine.pid
        return self._last_pid

    def _lost(self, reason: str) -> None:
        """Take the end of the machine: every process ends with it."""
        with self._lock:
            self._loss = reason
            containers = [container for container in self._containers.values() if container.created]
        for container in containers:
            container.lost(LOST)

    def _require_machine(self) -> None:
        if self._loss is not None:
            raise RPCError(Code.UNAVAILABLE, f"the pod's machine is gone: {self._loss}")

    def _watch_memory(self) -> None:
        with contextlib.suppress(KvtestError):
            while True:
                name = self._machine.agent.call("GetOOMEvent", Deadline(None)).container_id
                if name in self._containers:  # and not one that another client of the agent has made
                    self._publisher.publish("TaskOOM", container_id=name)

    def _exited(self, container: Container, process: Process) -> None:
        self._publisher.publish(
            "TaskExit",
            container_id=container.name,
            id=process.name or container.name,
            pid=self._last_pid,
            **process.stamp(),
        )

    def _container(self, name: str) -> Container:
        try:
            return self._containers[name]
        except KeyError:
            raise RPCError(Code.NOT_FOUND, f"there is no container {name!r}") from None

    def _process(self, request: Any) -> Process:
        return self._container(request.id).process(request.exec_id)

    def _message(self, name: str, **fields: Any) -> Any:
        return self.api.message(f"{TASK}.{name}")(**fields)

    # --- Methods

    def _connect(self, request: Any) -> Any:
        # Whoever has just started the shim asks too, before there is a container.
        pid = self._last_pid if request.id in self._containers else 0
        return self._message("ConnectResponse", shim_pid=os.getpid(), task_pid=pid, version="2")

    def _create(self, request: Any) -> Any:
        stdio = Stdio.of(request)
        with self._lock:
            if request.id in self._containers:
                raise RPCError(Code.ALREADY_EXISTS, f"there is a container {request.id!r}")
            container = Container(self._machine, request.id, Path(request.bundle), stdio, self._exited)
            self._containers[request.id] = container
        try:
            stdio.check()
            self._require_machine()
            container.create(request.rootfs)
            pid = self._pid
            with self._lock:  # it ends with the machine from now on, and is not told of if that has ended before
                self._require_machine()
                container.created = True
                self._publisher.publish("TaskCreate", container_id=request.id, bundle=request.bundle, pid=pid)
        except BaseException:
            self._containers.pop(request.id, None)
            self._removed(request.id)
            raise
        return self._message("CreateTaskResponse", pid=pid)

    def _start(self, request: Any) -> Any:
        container = self._container(request.id)
        pid = self._pid
        publish = functools.partial(self._publisher.publish, container_id=request.id, pid=pid)
        if request.exec_id:
            container.execute(
                container.process(request.exec_id), lambda: publish("TaskExecStarted", exec_id=request.exec_id)
            )
        else:
            container.start(lambda: publish("TaskStart"))
        return self._message("StartResponse", pid=pid)

    def _exec(self, request: Any) -> None:
        container = self._container(request.id)
        stdio = Stdio.of(request)
        stdio.check()
        try:
            found = json.loads(request.spec.value)
        except ValueError:
            raise RPCError(Code.INVALID_ARGUMENT, "the specification of the process is no JSON") from None
        container.add(request.exec_id, found, stdio)
        self._publisher.publish("TaskExecAdded", container_id=request.id, exec_id=request.exec_id)

    def _state(self, request: Any) -> Any:
        process = self._process(request)
        return self._message(
            "StateResponse",
            id=request.id,
            exec_id=request.exec_id,
            bundle=str(self._container(request.id).bundle),
            pid=self._last_pid,
            status=int(process.status),
            **process.stdio.fields(),
            **process.stamp(),
        )

    def _wait(self, request: Any) -> Later:
        process = self._process(request)
        return Later(process.waiter(), lambda: self._message("WaitResponse", **process.stamp()))

    def _kill(self, request: Any) -> None:
        container, process = self._container(request.id), self._process(request)
        if request.all:
            container.signal_all(request.signal)
        else:
            container.signal(process, request.signal)

    def _pids(self, request: Any) -> Any:
        self._container(request.id)
        return self._message("PidsResponse", processes=[{"pid": self._last_pid}])

    def _stats(self, request: Any) -> Any:
        self._container(request.id)
        found = self._machine.agent.call("StatsContainer", container_id=request.id).cgroup_stats
        metrics = self.api.message(_METRICS)(
            pids={"current": found.pids_stats.current, "limit": found.pids_stats.limit},
            cpu={"usage": {"total": found.cpu_stats.cpu_usage.total_usage}},
            memory={
                "usage": {"usage": found.memory_stats.usage.usage, "limit": found.memory_stats.usage.limit},
                "cache": found.memory_stats.cache,
            },
        )
        return self._message("StatsResponse", stats={"type_url": _METRICS, "value": metrics.SerializeToString()})

    def _pause(self, request: Any) -> None:
        first = self._container(request.id).first
        with first.changing:
            first.require(Status.RUNNING)
            self._machine.agent.call("PauseContainer", container_id=request.id)
            first.turn(Status.RUNNING, Status.PAUSED)
            self._publisher.publish("TaskPaused", container_id=request.id)

    def _resume(self, request: Any) -> None:
        first = self._container(request.id).first
        with first.changing:
            first.require(Status.PAUSED)
            self._machine.agent.call("ResumeContainer", container_id=request.id)
            first.turn(Status.PAUSED, Status.RUNNING)
            self._publisher.publish("TaskResumed", container_id=request.id)

    def _closeio(self, request: Any) -> None:
        if request.stdin:
            self._process(request).close_input()

    def _resizepty(self, request: Any) -> None:
        self._process(request)
        self._machine.agent.call(
            "TtyWinResize",
            container_id=request.id,
            exec_id=request.exec_id,
            row=request.height,
            column=request.width,
        )

    def _update(self, request: Any) -> None:
        self._container(request.id).first.require(Status.CREATED, Status.RUNNING, Status.PAUSED)
        try:
            found = json.loads(request.resources.value)
        except ValueError:
            raise RPCError(Code.INVALID_ARGUMENT, "the limits are no JSON") from None
        resources = guest_spec.resources(found)
        self._machine.agent.call("UpdateContainer", container_id=request.id, resources=resources)

    def _delete(self, request: Any) -> Any:
        container = self._container(request.id)
        process = container.process(request.exec_id)
        with process.changing:
            process.require(Status.STOPPED, Status.CREATED)
            process.give_up()
        with self._lock:
            if container.removing:
                raise RPCError(Code.NOT_FOUND, f"{request.id} is being deleted")
            container.removing = not request.exec_id
        if request.exec_id:
            process.drain()
            if container.processes.pop(request.exec_id, None) is None:
                raise RPCError(Code.NOT_FOUND, f"{request.id} has no process {request.exec_id!r}")
            process.close()
        else:
            container.remove()
            self._containers.pop(request.id, None)
            self._removed(request.id)
            self._publisher.publish("TaskDelete", container_id=request.id, pid=self._last_pid, **process.stamp())
        return self._message("DeleteResponse", pid=self._last_pid, **process.stamp())

    def _shutdown(self, _request: Any) -> None:
        if not self._containers:
            self._finished()

    def close(self) -> None:
        """End the machine."""
        self._machine.close()
