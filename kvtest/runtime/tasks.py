# SPDX-License-Identifier: Apache-2.0
"""What can be asked of a task, whoever is asked: a shim, or containerd."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, Protocol

from attrs import field, frozen

from kvtest.deadline import Deadline
from kvtest.rpc.api import Pending, Service, load
from kvtest.runtime.stdio import Input, Output

TASK = "containerd.task.v2"
_PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
_RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"


class Status(IntEnum):
    """In what state a process is."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5


@frozen
class ExitStatus:
    """How a process ended.

    Args:
        status: Its exit status; 128 and the signal that ended it.
        at: When, if that is told.
        pid: Its process ID, where that is told: not by Wait, and so it makes no difference between two.
    """

    status: int
    at: datetime | None = None
    pid: int = field(default=0, eq=False)

    @classmethod
    def of(cls, response: Any) -> ExitStatus:
        """Return what an answer or an event says that has ``exit_status`` and ``exited_at``."""
        stamp, at = response.exited_at, None
        if stamp.seconds > 0:  # Go's zero time lies long before 1970
            at = datetime.fromtimestamp(stamp.seconds, UTC) + timedelta(microseconds=stamp.nanos // 1000)
        return cls(response.exit_status, at, getattr(response, "pid", 0))


@frozen
class Snapshot:
    """What is told of a process when somebody asks for its state.

    Args:
        status: In what state it is.
        pid: Its process ID.
        exit: How it ended; ``None`` if the time of its end is not told.
        bundle: The bundle of its container; empty where that is not told.
        streams: What is told of its streams, as :attr:`Streams.told` has it.
    """

    status: Status
    pid: int
    exit: ExitStatus | None
    bundle: str
    streams: dict[str, Any]

    @classmethod
    def of(cls, response: Any) -> Snapshot:
        """Return what the answer of a shim or of containerd says."""
        exit_status = ExitStatus.of(response)
        told = exit_status if exit_status.at is not None else None
        streams = {name: getattr(response, name) for name in ("stdin", "stdout", "stderr", "terminal")}
        return cls(Status(response.status), response.pid, told, getattr(response, "bundle", ""), streams)


@frozen
class Streams:
    """The standard streams of a process.

    Args:
        stdout: Its output.
        stderr: Its errors; ``None`` with a terminal.
        stdin: Its input, if it has one.
    """

    stdout: Output
    stderr: Output | None
    stdin: Input | None

    @property
    def paths(self) -> dict[str, str]:
        """The fields of a request that name them."""
        return {
            "stdin": str(self.stdin.path) if self.stdin else "",
            "stdout": str(self.stdout.path),
            "stderr": str(self.stderr.path) if self.stderr else "",
        }

    @property
    def told(self) -> dict[str, Any]:
        """The fields of an answer that names them, and says whether there is a terminal."""
        return {**self.paths, "terminal": self.stderr is None}

    def close(self) -> None:
        """Remove them."""
        for stream in (self.stdout, self.stderr, self.stdin):
            if stream is not None:
                stream.close()


class PendingExit(Protocol):
    """A wait that has been asked for."""

    def result(self, deadline: Deadline | float) -> ExitStatus:
        """Return how the process ended; raises as every call does."""


class Tasks(Protocol):
    """What is asked of the tasks of a pod; every call has a deadline."""

    def start(self, name: str, process: str, deadline: Deadline | float) -> int:
        """Start what was created; return its process ID."""

    def exec(
        self, name: str, process: str, spec: Mapping[str, Any], streams: Streams, deadline: Deadline | float
    ) -> None:
        """Create a process beside a container's first one."""

    def state(self, name: str, process: str, deadline: Deadline | float) -> Status:
        """Return in what state a process is."""

    def snapshot(self, name: str, process: str, deadline: Deadline | float) -> Snapshot:
        """Return what else is told of it then."""

    def waiting(self, name: str, process: str, deadline: Deadline | float) -> PendingExit:
        """Ask for the end of a process."""

    def kill(self, name: str, process: str, signal: int, everybody: bool, deadline: Deadline | float) -> None:
        """Send a signal."""

    def pids(self, name: str, deadline: Deadline | float) -> list[int]:
        """Return the process IDs of a container."""

    def stats(self, name: str, deadline: Deadline | float) -> tuple[str, bytes]:
        """Return what a container uses: the type of the message, and the message."""

    def pause(self, name: str, deadline: Deadline | float) -> None:
        """Freeze a container."""

    def resume(self, name: str, deadline: Deadline | float) -> None:
        """Let a container go on."""

    def close_io(self, name: str, process: str, deadline: Deadline | float) -> None:
        """End a process's input."""

    def resize(self, name: str, process: str, rows: int, columns: int, deadline: Deadline | float) -> None:
        """Change the size of a process's terminal."""

    def update(self, name: str, resources: Mapping[str, Any], deadline: Deadline | float) -> None:
        """Change the limits of a container."""

    def delete(self, name: str, process: str, deadline: Deadline | float) -> ExitStatus:
        """Remove what has ended."""


def process_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``Any`` that describes a process, as fields of a message."""
    return {"type_url": _PROCESS, "value": json.dumps(spec).encode()}


def limits(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``Any`` that describes the limits of a container, as fields of a message."""
    return {"type_url": _RESOURCES, "value": json.dumps(resources).encode()}


class _PendingWait:
    def __init__(self, pending: Pending) -> None:
        self._pending = pending

    def result(self, deadline: Deadline | float) -> ExitStatus:
        return ExitStatus.of(self._pending.result(deadline))


class ShimTasks:
    """The Task API of a shim over one connection.

    Args:
        service: The service.
    """

    def __init__(self, service: Service) -> None:
        self.service = service

    def call(self, method: str, request: str, deadline: Deadline | float, **fields: Any) -> Any:
        """Call a method with a message of the task package."""
        return self.service.call(method, load("task").message(f"{TASK}.{request}")(**fields), deadline=deadline)

    def connect(self, name: str, deadline: Deadline | float) -> Any:
        """Ask a shim who it is."""
        return self.call("Connect", "ConnectRequest", deadline, id=name)

    def create(self, deadline: Deadline | float, **fields: Any) -> int:
        """Create a container; return its process ID."""
        return int(self.call("Create", "CreateTaskRequest", deadline, **fields).pid)

    def start(self, name: str, process: str, deadline: Deadline | float) -> int:
        """See :class:`Tasks`."""
        return int(self.call("Start", "StartRequest", deadline, id=name, exec_id=process).pid)

    def exec(
        self, name: str, process: str, spec: Mapping[str, Any], streams: Streams, deadline: Deadline | float
    ) -> None:
        """See :class:`Tasks`."""
        self.call(
            "Exec",
            "ExecProcessRequest",
            deadline,
            id=name,
            exec_id=process,
            terminal=bool(spec["terminal"]),
            spec=process_spec(spec),
            **streams.paths,
        )

    def state(self, name: str, process: str, deadline: Deadline | float) -> Status:
        """See :class:`Tasks`."""
        return self.snapshot(name, process, deadline).status

    def snapshot(self, name: str, process: str, deadline: Deadline | float) -> Snapshot:
        """See :class:`Tasks`."""
        return Snapshot.of(self.call("State", "StateRequest", deadline, id=name, exec_id=process))

    def waiting(self, name: str, process: str, deadline: Deadline | float) -> PendingExit:
        """See :class:`Tasks`."""
        request = load("task").message(f"{TASK}.WaitRequest")(id=name, exec_id=process)
        return _PendingWait(self.service.begin("Wait", request, deadline=deadline))

    def kill(self, name: str, process: str, signal: int, everybody: bool, deadline: Deadline | float) -> None:
        """See :class:`Tasks`."""
        self.call("Kill", "KillRequest", deadline, id=name, exec_id=process, signal=signal, all=everybody)

    def pids(self, name: str, deadline: Deadline | float) -> list[int]:
        """See :class:`Tasks`."""
        return [found.pid for found in self.call("Pids", "PidsRequest", deadline, id=name).processes]

    def stats(self, name: str, deadline: Deadline | float) -> tuple[str, bytes]:
        """See :class:`Tasks`."""
        stats = self.call("Stats", "StatsRequest", deadline, id=name).stats
        return stats.type_url, stats.value

    def pause(self, name: str, deadline: Deadline | float) -> None:
        """See :class:`Tasks`."""
        self.call("Pause", "PauseRequest", deadline, id=name)

    def resume(self, name: str, deadline: Deadline | float) -> None:
        """See :class:`Tasks`."""
        self.call("Resume", "ResumeRequest", deadline, id=name)

    def close_io(self, name: str, process: str, deadline: Deadline | float) -> None:
        """See :class:`Tasks`."""
        self.call("CloseIO", "CloseIORequest", deadline, id=name, exec_id=process, stdin=True)

    def resize(self, name: str, process: str, rows: int, columns: int, deadline: Deadline | float) -> None:
        """See :class:`Tasks`."""
        self.call("ResizePty", "ResizePtyRequest", deadline, id=name, exec_id=process, width=columns, height=rows)

    def update(self, name: str, resources: Mapping[str, Any], deadline: Deadline | float) -> None:
        """See :class:`Tasks`."""
        self.call("Update", "UpdateTaskRequest", deadline, id=name, resources=limits(resources))

    def delete(self, name: str, process: str, deadline: Deadline | float) -> ExitStatus:
        """See :class:`Tasks`."""
        return ExitStatus.of(self.call("Delete", "DeleteRequest", deadline, id=name, exec_id=process))

    def shutdown(self, name: str, deadline: Deadline | float) -> None:
        """Tell a shim that a container is gone; it ends when it has no other."""
        self.call("Shutdown", "ShutdownRequest", deadline, id=name)
