# SPDX-License-Identifier: Apache-2.0
"""Ways to break the reference shim, in its own processes, where it looks after a pod's virtual machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kvtest.deadline import Deadline
from kvtest.errors import KvtestError, ShimError
from kvtest.guest import libc
from kvtest.rpc.client import Client
from kvtest.rpc.server import Call
from kvtest.runtime.agent import Agent
from kvtest.runtime.reference import delete as delete_module
from kvtest.runtime.reference import machine as machine_module
from kvtest.runtime.reference import process as process_module
from kvtest.runtime.reference import server as server_module
from kvtest.runtime.reference import tasks as tasks_module
from kvtest.runtime.reference.container import Container
from kvtest.runtime.reference.machine import Machine
from kvtest.runtime.reference.pod import PodDirectory
from kvtest.runtime.reference.process import LOST, Process, Status
from kvtest.runtime.reference.server import Server
from kvtest.runtime.reference.streams import Output
from kvtest.runtime.reference.tasks import Tasks
from kvtest.vsock.device.switch import Switch
from tests.saboteurs.inside import PODS
from tests.saboteurs.inside import in_the_shim as _in_the_shim
from tests.saboteurs.inside import replace as _replace

_LOOK_SECONDS = 0.1


@_in_the_shim("RUNTIME-VM-001", "RUNTIME-VM-011")
def does_not_notice_an_end() -> None:
    """The end of the machine is not noticed."""
    _replace(Machine, "_tell", lambda self, reason: None)


@_in_the_shim("RUNTIME-VM-001", "RUNTIME-VM-012")
def tells_that_all_went_well() -> None:
    """Containers of a lost machine end with status 0."""
    _replace(tasks_module, "LOST", 0)


@_in_the_shim("RUNTIME-VM-001")
def tells_one_of_two_waiters() -> None:
    """Of those who wait for a process only the first learns of its end with the machine."""
    waiter, seen = Process.waiter, set[int]()

    def broken(self: Process) -> threading.Event:
        first = id(self) not in seen
        seen.add(id(self))
        return waiter(self) if first else threading.Event()

    _replace(Process, "waiter", broken)


@_in_the_shim("RUNTIME-VM-009", "RUNTIME-VM-011")
def publishes_an_end_twice() -> None:
    """The end of a process is published twice."""
    exited = Tasks._exited

    def broken(self: Tasks, *arguments: Any) -> None:
        exited(self, *arguments)
        exited(self, *arguments)

    _replace(Tasks, "_exited", broken)


@_in_the_shim("RUNTIME-VM-001")
def publishes_ends_of_another_process() -> None:
    """The ends of processes of a lost machine are published as those of another process."""
    lost = Tasks._lost

    def broken(self: Tasks, reason: str) -> None:
        self._last_pid = 1
        lost(self, reason)

    _replace(Tasks, "_lost", broken)


@_in_the_shim("RUNTIME-VM-001")
def forgets_exit_statuses() -> None:
    """With the machine also those end once more that had ended before."""
    lost = Tasks._lost

    def broken(self: Tasks, reason: str) -> None:
        for container in self._containers.values():
            container.first.status = Status.RUNNING
        lost(self, reason)

    _replace(Tasks, "_lost", broken)


@_in_the_shim("RUNTIME-VM-001", "RUNTIME-VM-016")
def forgets_processes_beside_the_first() -> None:
    """Only first processes end with the machine."""

    def broken(self: Container, status: int) -> None:
        self.first.ended(status)

    _replace(Container, "lost", broken)


@_in_the_shim("RUNTIME-VM-001")
def publishes_ends_of_first_processes_only() -> None:
    """The ends of processes beside the first are told to who waits, and not published."""
    exited = Tasks._exited

    def broken(self: Tasks, container: Container, process: Process) -> None:
        if not process.name:
            exited(self, container, process)

    _replace(Tasks, "_exited", broken)


@_in_the_shim("RUNTIME-VM-016")
def tells_of_what_was_not_created() -> None:
    """A container whose creation has failed is told to have ended."""
    create = Tasks._create

    def broken(self: Tasks, request: Any) -> Any:
        try:
            return create(self, request)
        except KvtestError:
            self._publisher.publish("TaskExit", container_id=request.id, id=request.id, exit_status=LOST)
            raise

    _replace(Tasks, "_create", broken)


@_in_the_shim("RUNTIME-VM-002")
def waits_for_its_turn_to_ask() -> None:
    """Whether a machine hangs is asked only after everything else has been sent to it."""

    @contextlib.contextmanager
    def turn(self: Client, deadline: Deadline, method: str) -> Iterator[None]:
        with self._sending:
            yield

    _replace(Client, "_turn", turn)


@_in_the_shim("RUNTIME-VM-002")
def waits_for_its_machine_to_come_up() -> None:
    """A machine that hangs before there is an agent in it is waited for."""
    _replace(machine_module, "ended_at_standstill", lambda process, seconds: contextlib.nullcontext())


@_in_the_shim("RUNTIME-VM-002", "RUNTIME-VM-009", "RUNTIME-VM-010", "RUNTIME-VM-016")
def does_not_ask_how_it_is() -> None:
    """A machine or an agent that hangs or is gone is not noticed: it is never asked."""
    _replace(Machine, "_watch_health", lambda self: None)


@_in_the_shim("RUNTIME-VM-003")
def has_no_patience() -> None:
    """A machine is lost as soon as it stands still."""
    _replace(Machine, "_watch_health", _watch_whether_it_stands_still)


@_in_the_shim("RUNTIME-VM-002")
def tells_of_no_end_but_its_own() -> None:
    """A shim ends with a machine that hangs, and its containers are said to have ended well."""
    _replace(Machine, "_watch_health", _watch_whether_it_stands_still)
    _replace(Machine, "_tell", lambda self, reason: os._exit(1))
    _replace(delete_module, "_KILLED", 0)


def _watch_whether_it_stands_still(self: Machine) -> None:
    # Asked for answers at once, machines would be lost that are only slow, and before the test stops them.
    while not self._closing.wait(_LOOK_SECONDS):
        if _stands_still(self.pid):
            self._tell("it stands still")
            return


def _stands_still(pid: int) -> bool:
    """Whether somebody has stopped a process (proc(5), /proc/PID/stat)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")
    return False


@_in_the_shim("RUNTIME-VM-013")
def leaves_the_machine() -> None:
    """A machine whose agent does not answer is taken for lost, and goes on."""

    def broken(self: Machine) -> None:
        self._closing.set()

    _replace(Machine, "close", broken)


@_in_the_shim("RUNTIME-VM-004", "RUNTIME-VM-013")
def leaves_a_mount() -> None:
    """With the machine's end a mount is made and forgotten."""
    lost = Tasks._lost

    def broken(self: Tasks, reason: str) -> None:
        for container in self._containers.values():
            place = container.bundle.parent / f"{container.name}-left"
            place.mkdir()
            libc.mount("left", str(place), "tmpfs", "")
        lost(self, reason)

    _replace(Tasks, "_lost", broken)


@_in_the_shim("RUNTIME-VM-005")
def leaves_a_process() -> None:
    """A helper of the machine outlives both."""
    start = Machine._start

    def broken(self: Machine) -> None:
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        start(self)

    _replace(Machine, "_start", broken)


@_in_the_shim("RUNTIME-VM-006", "RUNTIME-VM-014")
def stays_with_a_lost_machine() -> None:
    """A shim whose machine is lost does not end with its last container."""
    shutdown = Tasks._shutdown

    def broken(self: Tasks, request: Any) -> None:
        if self._loss is None:
            shutdown(self, request)

    _replace(Tasks, "_shutdown", broken)
    # containerd hides that alone: when it has taken leave of a shim it has "delete" run, and that would end this one.
    _replace(PodDirectory, "end", lambda self, ending: None)


@_in_the_shim("RUNTIME-VM-007", "RUNTIME-VM-015")
def kills_other_machines() -> None:
    """The end of one machine ends those of the other pods of the test."""
    start, lost, pods = Machine._start, Tasks._lost, Path(os.environ[PODS])

    def started(self: Machine) -> None:
        start(self)
        with pods.open("a") as stream:
            stream.write(f"{self.pid}\n")

    def broken(self: Tasks, reason: str) -> None:
        for line in pods.read_text().splitlines():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line), signal.SIGKILL)
        lost(self, reason)

    _replace(Machine, "_start", started)
    _replace(Tasks, "_lost", broken)


@_in_the_shim("RUNTIME-VM-008")
def deletes_only_what_is_there() -> None:
    """A deletion fails where the shim and the machine are gone already."""
    locked = PodDirectory.locked

    @contextlib.contextmanager
    def broken(self: PodDirectory, *, made: bool = False) -> Iterator[bool]:
        with locked(self, made=made) as there:
            if not there:
                raise ShimError("there is no machine to delete")
            yield there

    _replace(PodDirectory, "locked", broken)


# --- Clients that come and go


@_in_the_shim("RUNTIME-STDIO-004")
def ends_with_its_reader() -> None:
    """Output that is written while nobody reads is lost, and all that comes after it."""
    begin = Output.begin

    def broken(self: Output, agent: Agent) -> None:
        begin(self, agent)
        self.close()

    _replace(Output, "begin", broken)


@_in_the_shim("RUNTIME-STDIO-006")
def ends_when_all_is_read() -> None:
    """The end of a process is told when somebody has read all of its output."""
    _replace(process_module, "DRAIN_SECONDS", None)


@_in_the_shim("RUNTIME-CLIENTS-002")
def waits_for_who_has_gone() -> None:
    """The thread stays that waits for an end in the name of a client that has gone."""
    _replace(Call, "when_abandoned", lambda self, tell: None)


@_in_the_shim("RUNTIME-EXEC-005")
def keeps_a_descriptor() -> None:
    """A descriptor stays open of each process beside the first."""
    add = Container.add

    def broken(self: Container, *arguments: Any) -> None:
        add(self, *arguments)
        os.open(os.devnull, os.O_RDONLY)

    _replace(Container, "add", broken)


@_in_the_shim("RUNTIME-EXEC-005")
def keeps_a_descriptor_of_containers() -> None:
    """A descriptor stays open of each container."""
    create = Container.create

    def broken(self: Container, mounts: Any) -> None:
        create(self, mounts)
        os.open(os.devnull, os.O_RDONLY)

    _replace(Container, "create", broken)


@_in_the_shim("RUNTIME-CLIENTS-004")
def ends_without_descriptors() -> None:
    """A shim that has no descriptor left for a client ends."""
    accept = Server._accept

    def broken(self: Server) -> None:
        accept(self)
        os._exit(1)

    _replace(server_module, "_TOO_MANY", ())
    _replace(Server, "_accept", broken)


@_in_the_shim("RUNTIME-AGENT-001")
def serves_one_client() -> None:
    """While somebody is connected to the guest of a pod, nobody else gets a connection, as with a serial link."""
    greet, served = Switch.greet, list[socket.socket]()

    def broken(self: Switch, client: socket.socket) -> None:
        if any(other.fileno() >= 0 for other in served):
            client.close()
        else:
            served.append(client)
            greet(self, client)

    _replace(Switch, "greet", broken)
