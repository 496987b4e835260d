# SPDX-License-Identifier: Apache-2.0
"""Shims driven by kvtest in containerd's place, and what containerd does when it has lost one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from attrs import define

from kvtest.deadline import Deadline
from kvtest.errors import ConnectionLostError, KvtestError, RPCError, ShimError, StateError
from kvtest.rpc.api import load
from kvtest.runtime import events, shim, spec
from kvtest.runtime.backend import NAMESPACE, Plan, Surroundings
from kvtest.runtime.events import Event
from kvtest.runtime.profile import OptionsType
from kvtest.runtime.shim import Place, ShimProcess, StartedShim
from kvtest.runtime.sink import EventService, Sink
from kvtest.runtime.tasks import ExitStatus, Tasks

BUNDLES = "bundles"  # in the directory of a pod
_UNKNOWN_STATUS = 255  # of a container whose shim did not tell, in containerd's events


@define
class _Entry:
    """What is known of a container."""

    place: Place
    started: StartedShim
    created: bool = False
    leaving: bool = False  # its connection may end


class DirectBackend:
    """Runs the shims of one pod.

    Args:
        surroundings: What the pod is given.
        publish: Takes events.
        owned: Told the paths that shims have made.
        sink: How the events service behaves.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        publish: Callable[[Event], None],
        owned: Callable[[Path], None],
        sink: Sink = Sink.LIVE,
    ) -> None:
        self._given = surroundings
        self._publish = publish
        self._owned = owned
        self._service = EventService(surroundings.directory / "events.sock", publish, sink)
        self._entries: dict[str, _Entry] = {}
        self._process: ShimProcess | None = None
        self._address = Path()
        self._lock = threading.Lock()
        self._cleaners: list[threading.Thread] = []
        self.cleaned: dict[str, ExitStatus | KvtestError] = {}
        self.stale_sockets: list[Path] = []
        kind, fields = surroundings.installation.options(surroundings.directory)
        self._options = (
            {}
            if kind == OptionsType.NONE
            else {"options": {"type_url": kind, "value": load("task").message(kind)(**fields).SerializeToString()}}
        )

    @property
    def shim(self) -> ShimProcess | None:
        """The shim of the pod."""
        return self._process

    @property
    def logs(self) -> list[Path]:
        """The logs of the shim, one for each container."""
        return sorted((self._given.directory / BUNDLES).glob("*/log"))

    @property
    def address(self) -> Path:
        """The socket of the shim that was started last."""
        return self._address

    def forget_lost(self, name: str) -> None:
        """Nothing is left in the books of a container that went with its shim."""

    def place(self, name: str) -> Place:
        """Return where the shim of a container is run."""
        return Place(
            self._given.installation,
            NAMESPACE,
            name,
            self._given.directory / BUNDLES / name,
            self._service.path,
            self._given.directory / "containerd.sock",
            self._given.mounts,
        )

    def bundle(self, name: str) -> Path:
        """Return the bundle of a container."""
        return self.place(name).bundle

    def open(self, deadline: Deadline) -> None:
        """Start the shim, before there is a container."""
        pod = self._given.pod
        self._bundle(pod, json.dumps(spec.container(pod, pod, ["true"])))
        self._start(pod, deadline)

    def create(self, plan: Plan, deadline: Deadline) -> int:
        """See :class:`kvtest.runtime.backend.Backend`."""
        entry = self._entries.get(plan.name)
        if entry is not None and (entry.created or entry.started.client.lost):
            raise StateError(f"there is a container {plan.name} already")
        self._bundle(plan.name, json.dumps(plan.spec))
        if entry is None:
            entry = self._start(plan.name, deadline)
        entry.created = True
        try:
            return entry.started.tasks.create(
                deadline,
                id=plan.name,
                bundle=str(entry.place.bundle),
                rootfs=[plan.mount],
                terminal=plan.terminal,
                **plan.streams.paths,
                **self._options,
            )
        except ConnectionLostError:
            raise  # who is told of the end of the shim looks after what it has left
        except RPCError:
            self.removed(plan.name, deadline)
            raise

    def tasks(self, name: str) -> Tasks:
        """See :class:`kvtest.runtime.backend.Backend`."""
        if name not in self._entries:
            raise StateError(f"there is no container {name} any more")
        return self._entries[name].started.tasks

    def removed(self, name: str, deadline: Deadline) -> None:
        """Tell the shim that a container was deleted, as containerd does."""
        entry = self._entries.pop(name)
        entry.leaving = True
        with contextlib.suppress(RPCError):  # a shim may end before it has answered
            entry.started.tasks.shutdown(name, deadline)
        entry.started.client.close()

    def end(self, deadline: Deadline) -> None:
        """Shut the shim down that never had a container, and wait until nothing is under way."""
        for name in [name for name, entry in self._entries.items() if not entry.started.client.lost]:
            self.removed(name, deadline)
        if self._process is not None:
            self._process.wait(deadline)
        with self._lock:
            cleaners = list(self._cleaners)
        for cleaner in cleaners:
            cleaner.join(deadline.remaining)

    def close(self) -> None:
        """Close connections and the events service."""
        for entry in list(self._entries.values()):
            entry.leaving = True
            entry.started.client.close()
        if self._process is not None:
            self._process.close()
        self._service.close()

    def _bundle(self, name: str, configuration: str) -> None:
        bundle = self.bundle(name)
        mounts = self._given.mounts
        if mounts.mounted(bundle / "rootfs") if mounts is not None else os.path.ismount(bundle / "rootfs"):
            raise StateError(f"something is still mounted at {bundle / 'rootfs'}")
        if name not in self._entries and bundle.exists():
            shutil.rmtree(bundle)
        (bundle / "rootfs").mkdir(parents=True, exist_ok=True)
        (bundle / "log").touch()
        (bundle / "config.json").write_text(configuration)

    def _start(self, name: str, deadline: Deadline) -> _Entry:
        place = self.place(name)
        started = shim.start(place, lambda: self._lost(name), deadline)
        self._owned(started.address)
        self._address = started.address
        with self._lock:
            self._process = ShimProcess.succeeding(self._process, started.pid)
        self._entries[name] = _Entry(place, started)
        if started.client.lost:  # before it was in the books
            self._lost(name)
        return self._entries[name]

    # --- When the shim is lost

    def _lost(self, name: str) -> None:
        with self._lock:
            entry = self._entries.get(name)
            if entry is None or entry.leaving:
                return
            entry.leaving = True
        cleaner = threading.Thread(target=self._clean, args=(name, entry), name=f"kvtest-clean {name}", daemon=True)
        with self._lock:  # whoever sees it in the list can join it
            cleaner.start()
            self._cleaners.append(cleaner)

    def _clean(self, name: str, entry: _Entry) -> None:
        """Do what containerd does after it has lost a shim."""
        entry.started.client.close()
        status = ExitStatus(_UNKNOWN_STATUS)
        try:
            status = self.delete(name)
            self.cleaned[name] = status
        except KvtestError as error:
            self.cleaned[name] = error
        self._entries.pop(name, None)
        self._look_at_socket(entry.started.address)
        if entry.created:
            seconds = int(status.at.timestamp() if status.at else time.time())
            told = {"pid": status.pid, "exit_status": status.status, "exited_at": {"seconds": seconds}}
            self._publish(events.make("TaskExit", container_id=name, id=name, **told))
            self._publish(events.make("TaskDelete", container_id=name, **told))

    def _look_at_socket(self, address: Path) -> None:
        """Note that a socket is left that nobody listens at any more, and remove it: it is to be found once."""
        if address.exists() and not any(entry.started.address == address for entry in list(self._entries.values())):
            self.stale_sockets.append(address)
            address.unlink(missing_ok=True)

    def delete(self, name: str) -> ExitStatus:
        """Have the shim's program remove what is left of a container.

        Raises:
            ShimError: It did not, or not within the profile's bound.
        """
        place = self.place(name)
        if not place.bundle.is_dir():
            raise ShimError(f"there is no bundle of {name} any more")
        return shim.delete(place, Deadline(self._given.installation.profile.cleanup_bound))
