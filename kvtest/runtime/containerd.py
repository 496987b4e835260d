# SPDX-License-Identifier: Apache-2.0
"""A containerd of our own, with its own root, state and socket, and shims driven through it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kvtest.deadline import Deadline
from kvtest.errors import ContainerdError, KvtestError, MissingToolError, RPCError, ShimError, StateError
from kvtest.ownership import OwnedProcess, wait_readable
from kvtest.rpc.api import load
from kvtest.runtime.backend import NAMESPACE, Plan, Surroundings
from kvtest.runtime.events import Event, EventLog, decode
from kvtest.runtime.installation import Installation, find_program
from kvtest.runtime.profile import OptionsType
from kvtest.runtime.shim import ShimProcess, connect_again
from kvtest.runtime.tasks import ExitStatus, Tasks

if TYPE_CHECKING:
    import grpc

_CURE = "apt-get install --no-install-recommends containerd"
_SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
_OURS = "io.containerd.kvtest-asked-for.v2"
_STARTING_SECONDS = 20.0
_ENDING_SECONDS = 10.0
_CONFIGURATION = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
oom_score = 0
disabled_plugins = ["io.containerd.grpc.v1.cri"]

[grpc]
address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
"""


def find_containerd() -> Path:
    """Return where containerd is.

    Raises:
        MissingToolError: It is nowhere.
    """
    program = find_program("containerd")
    if program is None:
        raise MissingToolError("there is no containerd", hint=_CURE)
    return Path(program)


def _program_of(runtime: str) -> str:
    """Return the program that containerd looks for (runtime/v2/README.md of containerd)."""
    kind, version = runtime.split(".")[-2:]
    return f"containerd-shim-{kind}-{version}"


def _runtime_of(installation: Installation) -> str:
    """Return what containerd is to call a runtime.

    A shim that is not where containerd would look gets a name of its own: it may be a script that runs the one of the
    usual name.
    """
    usual = installation.profile.runtime
    return usual if find_program(_program_of(usual)) == str(installation.shim) else _OURS


def _environment(directory: Path, installation: Installation) -> dict[str, str]:
    """Return what has containerd find the shim of a runtime, wherever it is, and the shim what it needs."""
    directory.mkdir()
    (directory / _program_of(_OURS)).symlink_to(installation.shim)
    environment = installation.environment
    return {**environment, "PATH": f"{environment['PATH']}:{directory}"}


class Containerd:
    """A containerd that ends with us, and has nothing in common with the machine's own.

    Args:
        directory: Where it keeps everything; its path has to be short.
        program: The program.
        installation: The runtime whose shim it is to find by name; those on ``PATH`` if ``None``.

    Raises:
        ContainerdError: It did not start; the end of its log is in the message.
        MissingToolError: It is not a program.
    """

    def __init__(self, directory: Path, program: Path, installation: Installation | None = None) -> None:
        import grpc

        self.directory = directory
        self.socket = directory / "containerd.sock"
        self.log = directory / "containerd.log"
        configuration = directory / "config.toml"
        configuration.write_text(_CONFIGURATION.format(directory=directory, socket=self.socket))
        self._subscribers: dict[str, Callable[[Event], None]] = {}
        self._channel: grpc.Channel | None = None
        self._reader: threading.Thread | None = None
        deadline = Deadline(_STARTING_SECONDS)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(directory / "notify"))
            self._process = OwnedProcess(
                [program, "--config", configuration],
                output=self.log,
                environment={
                    **os.environ,
                    **(_environment(directory / "bin", installation) if installation is not None else {}),
                    "NOTIFY_SOCKET": str(directory / "notify"),  # as sd_notify(3) has it
                },
            )
            try:
                wait_readable(notified, self._process, deadline, "containerd to be ready")
                self._channel = grpc.insecure_channel(f"unix://{self.socket}")
                self.version = self.stub("containerd.services.version.v1.Version").call("Version", deadline).version
            except (KvtestError, ChildProcessError) as error:
                self._refuse(program, error)
        self._stream = self.stub("containerd.services.events.v1.Events").stream("Subscribe")
        self._reader = threading.Thread(target=self._read, name="kvtest-containerd-events", daemon=True)
        self._reader.start()

    def _refuse(self, program: Path, error: KvtestError | ChildProcessError) -> NoReturn:
        tail = self._process.tail(15)
        self.close()
        said = error.message.partition("; last seen")[0] if isinstance(error, KvtestError) else f"it ended: {error}"
        raise ContainerdError(
            f"{program} did not start: {said}; its log ends with:\n{tail}",
            hint=f"run it by hand: {program} --config FILE",
        ) from error

    @property
    def channel(self) -> grpc.Channel:
        """The connection to it.

        Raises:
            StateError: It has been closed.
        """
        if self._channel is None:
            raise StateError("containerd has been ended")
        return self._channel

    def stub(self, service: str) -> Any:
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
                event = decode(envelope.event.type_url, envelope.event.value)
                if event is None:
                    continue
                for pod, take in list(self._subscribers.items()):
                    if event.container.startswith(pod):
                        take(event)

    def close(self) -> None:
        """End it."""
        if self._channel is not None:
            if self._reader is not None:
                self._stream.cancel()
                self._reader.join()
            self._channel.close()
            self._channel = None
        self._process.kill(signal.SIGTERM)
        with contextlib.suppress(KvtestError):
            self._process.wait(_ENDING_SECONDS)
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
        from kvtest.runtime.containerd_tasks import ContainerdTasks

        self._given = surroundings
        self._owned = owned
        self._log = log
        self._containerd = containerd
        self._tasks = ContainerdTasks(containerd.channel)
        self._containers = containerd.stub("containerd.services.containers.v1.Containers")
        self._known: dict[str, Path] = {}  # containers, with their shims' sockets
        self._process: ShimProcess | None = None
        self._address = Path()
        self.cleaned: dict[str, ExitStatus | KvtestError] = {}
        self.stale_sockets: list[Path] = []
        containerd.subscribe(surroundings.pod, self._take)

    def _take(self, event: Event) -> None:
        """Take an event; after the last one of a shim that has died, see whether its socket has stayed."""
        if event.kind == "TaskDelete" and not event.process and self._process is not None and self._process.ended:
            address = self._known.get(event.container)
            if address is not None and address.exists():
                self.stale_sockets.append(address)
                address.unlink(missing_ok=True)  # it is to be found once
        self._log.add(event)

    @property
    def shim(self) -> ShimProcess | None:
        """The shim, from the first container on."""
        return self._process

    @property
    def address(self) -> Path:
        """The socket of the shim."""
        return self._address

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
            "runtime": {"name": _runtime_of(self._given.installation), **options},
            "spec": {"type_url": _SPEC, "value": json.dumps(plan.spec).encode()},
        }
        self._containers.call("Create", deadline, container=container)
        try:
            created = self._tasks.call(
                "Create",
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

    def _learn(self, name: str, deadline: Deadline) -> None:
        """Learn which shim serves a container, as containerd itself does: from the file in the bundle."""
        bundle = self._containerd.directory / "state" / "io.containerd.runtime.v2.task" / NAMESPACE / name
        try:
            address = Path((bundle / "address").read_text().strip().removeprefix("unix://"))
        except OSError as error:
            raise ShimError(f"the shim of {name} has left no address in its bundle: {error.strerror}") from error
        tasks = connect_again(address)
        pid = tasks.connect(name, deadline).shim_pid
        tasks.service.client.close()
        self._known[name] = self._address = address
        self._owned(address)
        if self._process is None or self._process.pid != pid:
            if self._process is not None:
                self._process.close()
            self._process = ShimProcess(pid)

    def tasks(self, name: str) -> Tasks:
        """See :class:`kvtest.runtime.backend.Backend`."""
        return self._tasks

    def removed(self, name: str, deadline: Deadline) -> None:
        """See :class:`kvtest.runtime.backend.Backend`."""
        self._containers.call("Delete", deadline, id=name)
        self._known.pop(name, None)

    def forget_lost(self, name: str) -> None:
        """See :class:`kvtest.runtime.backend.Backend`."""
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
