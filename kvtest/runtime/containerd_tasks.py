# SPDX-License-Identifier: Apache-2.0
"""containerd's Tasks API over gRPC, with the errors that shims' own API has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc

from kvtest.deadline import Deadline
from kvtest.errors import ConnectionLostError, KvtestError, RPCError
from kvtest.rpc.api import load
from kvtest.runtime.backend import NAMESPACE
from kvtest.runtime.tasks import ExitStatus, PendingExit, Snapshot, Status, Streams, limits, process_spec

_METADATA = (("containerd-namespace", NAMESPACE),)
_TASKS = "containerd.services.tasks.v1"


class Stub:
    """Calls one service of containerd.

    Args:
        channel: The connection.
        service: Full name of the service.
    """

    def __init__(self, channel: grpc.Channel, service: str) -> None:
        self._channel = channel
        self._service = service
        self._methods = load("containerd").methods(service)

    def begin(self, method: str, deadline: Deadline | float, *, wait: bool = False, **fields: Any) -> Any:
        """Send a call, at once or when somebody listens; its answer is a future of grpc's."""
        types = self._methods[method]
        call = self._channel.unary_unary(
            f"/{self._service}/{method}",
            request_serializer=types.request.SerializeToString,
            response_deserializer=types.response.FromString,
        )
        seconds = Deadline.of(deadline).remaining
        return call.future(types.request(**fields), timeout=seconds, metadata=_METADATA, wait_for_ready=wait)

    def ready(self, method: str, deadline: Deadline | float) -> Any:
        """Call a method, without an argument, as soon as containerd listens; raises as :meth:`call` does."""
        deadline = Deadline.of(deadline)
        return answer(self.begin(method, deadline, wait=True), f"containerd: {method}", deadline)

    def call(self, method: str, deadline: Deadline | float, **fields: Any) -> Any:
        """Call a method and return its result.

        Raises:
            RPCError: containerd answered with a status other than OK.
            ConnectionLostError: It is gone.
            DeadlineExceededError: No answer came in time.
        """
        deadline = Deadline.of(deadline)
        return answer(self.begin(method, deadline, **fields), f"containerd: {method}", deadline)

    def stream(self, method: str, **fields: Any) -> Any:
        """Return the answers of a method that has many."""
        types = self._methods[method]
        call = self._channel.unary_stream(
            f"/{self._service}/{method}",
            request_serializer=types.request.SerializeToString,
            response_deserializer=types.response.FromString,
        )
        return call(types.request(**fields), metadata=_METADATA)


def answer(future: Any, name: str, deadline: Deadline) -> Any:
    """Wait for the answer of a call; raises as :meth:`Stub.call` does."""
    try:
        return future.result(deadline.remaining)
    except grpc.FutureTimeoutError:
        future.cancel()
        raise deadline.exceeded(f"the answer to {name}") from None
    except grpc.FutureCancelledError:
        raise ConnectionLostError(f"{name}: the connection was ended") from None
    except grpc.RpcError as error:
        raise _converted(error, name, deadline) from None


def _converted(error: Any, name: str, deadline: Deadline) -> KvtestError:
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return deadline.exceeded(f"the answer to {name}", error.details())
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return ConnectionLostError(f"{name}: {error.details()}")
    return RPCError(error.code().value[0], f"{name}: {error.details()}")


class _PendingWait:
    def __init__(self, future: Any) -> None:
        self._future = future

    def result(self, deadline: Deadline | float) -> ExitStatus:
        return ExitStatus.of(answer(self._future, "containerd: Wait", Deadline.of(deadline)))


class ContainerdTasks:
    """Asks containerd about tasks; see :class:`kvtest.runtime.tasks.Tasks`.

    Args:
        channel: The connection.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = Stub(channel, f"{_TASKS}.Tasks")
        self.call: Callable[..., Any] = self._stub.call

    def start(self, name: str, process: str, deadline: Deadline | float) -> int:
        """See :class:`kvtest.runtime.tasks.Tasks`."""
        return int(self.call("Start", deadline, container_id=name, exec_id=process).pid)

    def exec(
        self, name: str, process: str, spec: Mapping[str, Any], streams: Streams, deadline: Deadline | float
    ) -> None:
        """See :class:`kvtest.runtime.tasks.Tasks`."""
        fields = {"terminal": bool(spec["terminal"]), "spec": process_spec(spec), **streams.paths}
        self.call("Exec", deadline, container_id=name, exec_id=process, **fields)

    def state(self, name: str, process: str, deadline: Deadline | float) -> Status:
        """See :class:`kvtest.runtime.tasks.Tasks`."""
        return self.snapshot(name, process, deadline).status

    def snapshot(self, name: str, process: str, deadline: Deadline | float) -> Snapshot:
        """See :class:`kvtest.runtime.tasks.Tasks`."""
        return Snapshot.of(self.call("Get", deadline, container_id=name, exec_id=process).process)

    def waiting(self, name: str, process: str, deadline: Deadline | float) -> PendingExit:
        """See :class:`kvtest.runtime.tasks.Tasks`."""
        return _PendingWait(self._stub.begin("Wait", deadline, container_id=name, exec_id=process))

    def kill(self, name: str, process: str, signal: int, everybody: bool, deadline: Deadline | float) -> None:
        """See :class:`kvtest.runtime.tasks.Tasks`."""
        self.call("Kill", deadline, container_id=name, exec_id=process, signal=signal, all=everybody)

    def pids(self, name: str, deadline: Deadline | float) -> list[int]:
        """See :class:`kvtest.runtime.tasks.Tasks`."""
        return [found.pid for found in self.call("ListPids", deadline, container_id=name).processes]

    def stats(self, name: str, deadline: Deadline | float) -> tuple[str, bytes]:
        """See :class:`kvtest.runtime.tasks.Tasks`."""
        for metric in self.call("Metrics", deadline, filters=[f"id=={name}"]).metrics:
            return metric.data.type_url, metric.data.value
        return "", b""

    def pause(self, name: str, deadline: Deadline | float) -> None:
        """See :class:`kvtest.runtime.tasks.Tasks`."""
        self.call("Pause", deadline, container_id=name)

    def resume(self, name: str, deadline: Deadline | float) -> None:
        """See :class:`kvtest.runtime.tasks.Tasks`."""
        self.call("Resume", deadline, container_id=name)

    def close_io(self, name: str, process: str, deadline: Deadline | float) -> None:
        """See :class:`kvtest.runtime.tasks.Tasks`."""
        self.call("CloseIO", deadline, container_id=name, exec_id=process, stdin=True)

    def resize(self, name: str, process: str, rows: int, columns: int, deadline: Deadline | float) -> None:
        """See :class:`kvtest.runtime.tasks.Tasks`."""
        self.call("ResizePty", deadline, container_id=name, exec_id=process, width=columns, height=rows)

    def update(self, name: str, resources: Mapping[str, Any], deadline: Deadline | float) -> None:
        """See :class:`kvtest.runtime.tasks.Tasks`."""
        self.call("Update", deadline, container_id=name, resources=limits(resources))

    def delete(self, name: str, process: str, deadline: Deadline | float) -> ExitStatus:
        """See :class:`kvtest.runtime.tasks.Tasks`."""
        if process:
            return ExitStatus.of(self.call("DeleteProcess", deadline, container_id=name, exec_id=process))
        return ExitStatus.of(self.call("Delete", deadline, container_id=name))
