# SPDX-License-Identifier: Apache-2.0
"""A containerd of our own, with its own root, state and socket, and shims driven through it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvtest.deadline import Deadline
from kvtest.errors import KvtestError, RPCError, ShimError, StateError
from kvtest.rpc.api import load
from kvtest.rpc.status import Code
from kvtest.runtime.backend import NAMESPACE, Plan, Surroundings
from kvtest.runtime.containerd_process import (
    ASKED_FOR,
    BUNDLES,
    STARTING_SECONDS,
    ContainerdProcess,
    program_of,
)
from kvtest.runtime.events import Event, EventLog, decode
from kvtest.runtime.installation import Installation, find_program
from kvtest.runtime.profile import OptionsType
from kvtest.runtime.shim import ShimProcess, connect_again
from kvtest.runtime.tasks import ExitStatus, Tasks

if TYPE_CHECKING:
    import grpc

    from kvtest.runtime.containerd_tasks import ContainerdTasks, Stub

_SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
# Milliseconds until a connection is tried again after containerd has ended; a second and more if nobody says so.
_CHANNEL = [(f"grpc.{which}_reconnect_backoff_ms", 50) for which in ("initial", "min", "max")]
_ENDING_SECONDS = 10.0
_FORGETTING_SECONDS = 1.0  # that containerd may take to forget a task after it has published its deletion


def runtime_of(installation: Installation) -> str:
    """Return what containerd is to call a runtime.

    A shim that is not where containerd would look gets a name of its own: it may be a script that runs the one of the
    usual name.
    """
    usual = installation.profile.runtime
    return usual if find_program(program_of(usual)) == str(installation.shim) else ASKED_FOR


class Containerd:
    """A containerd that ends with us, and has nothing in common with the machine's own.

    Args:
        process: What it runs as, not started yet.

    Raises:
        ContainerdError: It did not start; the end of its log is in the message.
        MissingToolError: It is not a program.
    """

    def __init__(self, process: ContainerdProcess) -> None:
        self.directory = process.directory
        self._process = process
        self._subscribers: dict[str, Callable[[Event], None]] = {}
        self._channel: grpc.Channel | None = None
        self._reader: threading.Thread | None = None
        self.start()

    def start(self) -> None:
        """Start it, again if it was killed: it finds what it had.

        Raises:
            ContainerdError: It did not start; the end of its log is in the message.
            MissingToolError: It is not a program.
        """
        import grpc

        deadline = Deadline(STARTING_SECONDS)
        self._process.start(deadline)
        try:
            # One channel for all its lives: what grpc has opened for one stays open.
            self._channel = self._channel or grpc.insecure_channel(f"unix://{self.socket}", options=_CHANNEL)
            self.version = self.stub("containerd.services.version.v1.Version").ready("Version", deadline).version
        except KvtestError as error:
            self._disconnect()
            self._process.refuse(error)
        self._stream = self.stub("containerd.services.events.v1.Events").stream("Subscribe")
        self._reader = threading.Thread(target=self._read, name="kvtest-containerd-events", daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether it has been started and not been killed."""
        return self._process.process.running

    @property
    def pid(self) -> int:
        """Its process ID."""
        return self._process.process.pid

    @property
    def log(self) -> Path:
        """The file that it logs to."""
        return self._process.log

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self._process.socket

    def kill(self) -> None:
        """End it at once, and leave to themselves the shims that it has started."""
        self._process.kill()
        if self._reader is not None:
            self._reader.join()  # the stream of events has ended with it
        self._process.close()

    @property
    def channel(self) -> grpc.Channel:
        """The connection to it.

        Raises:
            StateError: It has been ended.
        """
        if self._channel is None:
            raise StateError("containerd has been ended")
        return self._channel

    def stub(self, service: str) -> Stub:
        """Return what calls a service."""
        from kvtest.runtime.containerd_tasks import Stub

        return Stub(self.channel, service)

    def subscribe(self, pod: str, take: Callable[[Event], None]) -> None:
        """Have the events taken of all containers whose ID begins with that of a pod."""
        self._subscribers[pod] = take

    def unsubscribe(self, pod: str) -> None:
        """Take no events of a pod any more."""
        self._subscribers.pop(pod, None)

    def _read(self) -> None:
        import grpc

        with contextlib.suppress(grpc.RpcError):  # the end of containerd, or of us
            for envelope in self._stream:
                event = decode(envelope)
                if event is None:
                    continue
                for pod, take in list(self._subscribers.items()):
                    if event.container.startswith(pod):
                        take(event)

    def _disconnect(self) -> None:
        if self._channel is not None:
            if self._reader is not None:
                self._stream.cancel()
                self._reader.join()
            self._channel.close()
            self._channel = None

    def close(self) -> None:
        """End it."""
        self._disconnect()
        self._process.close()


class ContainerdBackend:
    """Runs the shims of one pod through containerd; see :class:`kvtest.runtime.backend.Backend`.

    Args:
        surroundings: What the pod is given.
        log: Takes events.
        owned: Told the paths that shims have made.
        containerd: Runs the shims.
    """

    def __init__(
        self, surroundings: Surroundings, log: EventLog, owned: Callable[[Path], None], containerd: Containerd
    ) -> None:
        self._given = surroundings
        self._owned = owned
        self._log = log
        self._containerd = containerd
        self._known: dict[str, Path] = {}  # containers, with their shims' sockets
        self._lost: set[str] = set()  # those that went with their shims
        self._process: ShimProcess | None = None
        self._lock = threading.Lock()  # of the process: containers may be created at the same time
        self._address = Path()
        self.cleaned: dict[str, ExitStatus | KvtestError] = {}
        self.stale_sockets: list[Path] = []
        containerd.subscribe(surroundings.pod, self._take)

    def _take(self, event: Event) -> None:
        """Take an event; after the last one of a shim that has died, see whether its socket has stayed."""
        if event.kind == "TaskDelete" and not event.process and self._process is not None and self._process.ended:
            self._look_at_socket(event.container)
        self._log.add(event)

    def _look_at_socket(self, name: str) -> None:
        """Note that the socket of a shim that has died is left, and remove it: it is to be found once."""
        address = self._known.get(name)
        if address is not None and address.exists() and self._process is not None and self._process.ended:
            self.stale_sockets.append(address)
            address.unlink(missing_ok=True)

    @property
    def _tasks(self) -> ContainerdTasks:
        from kvtest.runtime.containerd_tasks import ContainerdTasks

        return ContainerdTasks(self._containerd.channel)

    @property
    def _containers(self) -> Stub:
        return self._containerd.stub("containerd.services.containers.v1.Containers")

    @property
    def shim(self) -> ShimProcess | None:
        """The shim, from the first container on."""
        return self._process

    @property
    def logs(self) -> list[Path]:
        """The log of containerd, into which it copies those of shims."""
        return [self._containerd.log]

    @property
    def address(self) -> Path:
        """The socket of the shim."""
        return self._address

    def bundle(self, name: str) -> Path:
        """Return the bundle of a container."""
        return self._containerd.directory / BUNDLES / NAMESPACE / name

    def open(self, deadline: Deadline) -> None:
        """Nothing comes before the first container."""

    def create(self, plan: Plan, deadline: Deadline) -> int:
        """See :class:`kvtest.runtime.backend.Backend`."""
        kind, fields = self._given.installation.options(self._given.directory)
        options = {}
        if kind != OptionsType.NONE:
            options["options"] = {
                "type_url": kind,
                "value": load("task").message(kind)(**fields).SerializeToString(),
            }
        container = {
            "id": plan.name,
            "runtime": {"name": runtime_of(self._given.installation), **options},
            "spec": {"type_url": _SPEC, "value": json.dumps(plan.spec).encode()},
        }
        self._containers.call("Create", deadline, container=container)
        try:
            created = self._create_task(
                deadline,
                container_id=plan.name,
                rootfs=[plan.mount],
                terminal=plan.terminal,
                **plan.streams.paths,
            )
        except RPCError:
            self._containers.call("Delete", deadline, id=plan.name)
            raise
        self._learn(plan.name, deadline)
        return int(created.pid)

    def _create_task(self, deadline: Deadline, **fields: Any) -> Any:
        """Create a task, again where one of that name was lost and containerd is about to forget it.

        It publishes TaskDelete for the task of a dead shim, and takes it out of its list after that (containerd 1.6,
        runtime/v2/manager.go): for a moment, whoever has seen the event is told that there is such a task.
        """
        patience = Deadline(_FORGETTING_SECONDS)
        while True:
            try:
                return self._tasks.call("Create", deadline, **fields)
            except RPCError as error:
                lost = fields["container_id"] in self._lost
                if error.code != Code.ALREADY_EXISTS or not lost or patience.expired:
                    raise

    def _learn(self, name: str, deadline: Deadline) -> None:
        """Learn which shim serves a container, as containerd itself does: from the file in the bundle."""
        try:
            address = Path((self.bundle(name) / "address").read_text().strip().removeprefix("unix://"))
        except OSError as error:
            raise ShimError(f"the shim of {name} has left no address in its bundle: {error.strerror}") from error
        tasks = connect_again(address)
        pid = tasks.connect(name, deadline).shim_pid
        tasks.service.client.close()
        self._known[name] = self._address = address
        self._owned(address)
        with self._lock:
            self._process = ShimProcess.succeeding(self._process, pid)

    def tasks(self, name: str) -> Tasks:
        """See :class:`kvtest.runtime.backend.Backend`."""
        return self._tasks

    def removed(self, name: str, deadline: Deadline) -> None:
        """See :class:`kvtest.runtime.backend.Backend`."""
        self._containers.call("Delete", deadline, id=name)
        self._known.pop(name, None)

    def forget_lost(self, name: str) -> None:
        """See :class:`kvtest.runtime.backend.Backend`."""
        self._look_at_socket(name)
        self._lost.add(name)
        self._containers.call("Delete", _ENDING_SECONDS, id=name)
        self._known.pop(name, None)

    def delete(self, name: str) -> ExitStatus:
        """Not ours to do.

        Raises:
            StateError: containerd does it.
        """
        raise StateError("containerd alone runs 'delete'")

    def end(self, deadline: Deadline) -> None:
        """See :class:`kvtest.runtime.backend.Backend`."""
        if self._process is not None:
            self._process.wait(deadline)
        for name in list(self._known):
            with contextlib.suppress(KvtestError):
                self._log.expect("TaskDelete", name, within=deadline)
            with contextlib.suppress(RPCError):
                self._containers.call("Delete", deadline, id=name)
        self._known.clear()

    def close(self) -> None:
        """See :class:`kvtest.runtime.backend.Backend`."""
        self._containerd.unsubscribe(self._given.pod)
        if self._process is not None:
            self._process.close()
