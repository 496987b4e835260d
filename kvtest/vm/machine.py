# SPDX-License-Identifier: Apache-2.0
"""One virtual machine, from its definition to its death."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from kvtest.control import GuestControl
from kvtest.deadline import Deadline
from kvtest.errors import (
    BootError,
    ConnectionLostError,
    DeadlineExceededError,
    QMPError,
    RPCError,
    StateError,
    TransportError,
)
from kvtest.ownership import OwnedProcess, RunDirectory, wait_readable
from kvtest.ownership.use import in_use
from kvtest.transport import VSOCKS, Transport
from kvtest.vm.configuration import ColdBoot, Configuration, Restore
from kvtest.vm.console import Console
from kvtest.vm.diagnosis import boot_failure, end_of_machine
from kvtest.vm.q35 import (
    CONTROL_SOCKET,
    DISK_SIZE,
    HYBRID_SOCKET,
    MONITOR_SOCKET,
    VHOST_USER_SOCKET,
    command_line,
    disk_file,
    plug_kernel_vsock,
    plug_vsock,
    serial_socket,
)
from kvtest.vm.qmp import Monitor
from kvtest.vm.restoration import Restoration
from kvtest.vm.state import State, requires
from kvtest.vm.template import Template
from kvtest.vsock.device import VsockDevice
from kvtest.vsock.reservation import ReservedCid

R = TypeVar("R")
_BOOT = ColdBoot()
_END_SECONDS = 5.0


class VM:
    """A virtual machine under QEMU.

    Args:
        configuration: What it is made of.
        artifacts: Directory that gets its console, command line, monitor log and QEMU's output.
        name: What to call it in messages.
        start: How it gets to its first instruction: with a boot, or as the clone of a template.
    """

    def __init__(
        self, configuration: Configuration, artifacts: Path, name: str = "guest", start: ColdBoot | Template = _BOOT
    ) -> None:
        self.configuration = configuration
        self.artifacts = artifacts
        self.name = name
        self.console = Console(artifacts / "console.log")
        self.vsock_device: VsockDevice | None = None
        self.cid = configuration.guest_cid
        self._reserved: ReservedCid | None = None
        self._vhost_descriptor = -1
        #: Whether its end was asked for: with :meth:`kill`, :meth:`power_off` or :meth:`close`.
        self.end_asked = False
        #: The release of its kernel, once it is ready.
        self.release = ""
        #: What happened at its start, and how many seconds after the first of it.
        self.timeline: list[tuple[str, float]] = []
        self._start = start
        self._begin = time.monotonic()
        self._resources = contextlib.ExitStack()
        self._state = State.DEFINED
        self._process: OwnedProcess | None = None
        self._monitor: Monitor | None = None
        self._monitor_listener: socket.socket | None = None
        self._control_listener: socket.socket | None = None
        self._restoration: Restoration | None = None
        self._monitor_lock = threading.Lock()
        self._control: GuestControl | None = None
        self._directory: Path | None = None

    # --- State

    @property
    def state(self) -> State:
        """Where it is in its life; notices when QEMU has ended."""
        if self._state in (State.BOOTING, State.READY, State.PAUSED) and not (self._process and self._process.running):
            self._state = State.DEAD
        return self._state

    @property
    def died(self) -> str | None:
        """How it ended, in one line, if it has and nobody asked it to."""
        return self.how_it_died(connection_lost=self._control is not None and self._control.lost is not None)

    def how_it_died(self, *, connection_lost: bool) -> str | None:
        """Return how it ended, in one line, if it has and nobody asked it to.

        Args:
            connection_lost: Whether somebody's connection through QEMU has ended, which is so a moment before QEMU has.
        """
        if self.end_asked:
            return None
        if connection_lost:
            with contextlib.suppress(DeadlineExceededError):
                self.process.wait(_END_SECONDS)
        return end_of_machine(self.console, self.process) if self.state is State.DEAD else None

    @property
    def process(self) -> OwnedProcess:
        """QEMU."""
        return self._started(self._process)

    @property
    def monitor(self) -> Monitor:
        """QEMU's monitor, opened when it is first needed: a clone that answers has come up without it."""
        with self._monitor_lock:
            if self._monitor is None:
                self._monitor = self._open_monitor(Deadline(self.configuration.request_timeout))
            return self._monitor

    @property
    def control(self) -> GuestControl:
        """The channel to the control daemon."""
        return self._started(self._control)

    @property
    def directory(self) -> Path:
        """The private directory of its sockets."""
        return self._started(self._directory)

    def _started(self, part: R | None) -> R:
        if part is None:
            raise StateError(f"{self.name} is {self._state}", hint="call boot() first")
        return part

    def serial_path(self, port: str) -> Path:
        """Return the host socket of a virtio-serial port."""
        return self.directory / serial_socket(self.configuration.serial_ports.index(port))

    def disk(self, number: int) -> Path:
        """Return the file whose first bytes are the content of a disk; the guest is not told when they change."""
        return self.directory / disk_file(number)

    @property
    def hybrid_path(self) -> Path:
        """The hybrid-vsock socket that host clients connect to."""
        return self.directory / HYBRID_SOCKET

    # --- Life

    @requires(State.DEFINED, instead="a machine is launched once: make another")
    def launch(self) -> None:
        """Start QEMU and do not wait for it: :meth:`boot` does, now or later.

        Raises:
            HostError: QEMU could not be started.
            TemplateRemovedError: What it is a clone of is gone.
        """
        self.artifacts.mkdir(parents=True, exist_ok=True)
        self._begin = time.monotonic()
        with self._fatal():
            used = (
                self._start.in_use() if isinstance(self._start, Template) else in_use(self.configuration.kernel.parent)
            )
            self._resources.enter_context(used)
            self._start_qemu()
        self.note("QEMU started")

    @requires(State.DEFINED, State.BOOTING, instead="a machine boots once: make another")
    def boot(self, ready: Callable[[VM, Deadline], None] | None = None) -> None:
        """Start QEMU, unless it has been, and wait until the control daemon answers.

        Args:
            ready: Waits until whoever else lives in the guest is ready, in place of the control daemon.

        Raises:
            BootError: It did not get there; the message says which of panic, failed init, QEMU's end or silence it was.
        """
        deadline = Deadline(self.configuration.boot_timeout)
        if self._state is State.DEFINED:
            self.launch()
        with self._fatal():
            self._await_ready(deadline, ready)
        (self.artifacts / "timeline.json").write_text(json.dumps(self.timeline, indent=1) + "\n")

    @contextlib.contextmanager
    def _fatal(self) -> Iterator[None]:
        """End the machine if something fails."""
        try:
            yield
        except BaseException:
            self._resources.close()
            self._state = State.DEAD
            raise

    def _start_qemu(self) -> None:
        resources = self._resources
        self._directory = resources.enter_context(RunDirectory(self.configuration.run_directory)).path
        for number in range(self.configuration.empty_disks):
            with self.disk(number).open("xb") as file:
                file.truncate(DISK_SIZE)
        # Sockets exist before the child that connects to them.
        self._monitor_listener = resources.enter_context(_listen(self._directory / MONITOR_SOCKET))
        if self.configuration.controlled:
            self._control_listener = resources.enter_context(_listen(self._directory / CONTROL_SOCKET))
        vsock = Transport.VHOST_USER_VSOCK in self.configuration.transports
        if vsock:
            self.vsock_device = resources.enter_context(
                VsockDevice(self._directory / VHOST_USER_SOCKET, self.hybrid_path, self.cid)
            )
        if Transport.VHOST_VSOCK in self.configuration.transports:
            self._reserved = resources.enter_context(ReservedCid(self.configuration.host_cid))
            self.cid = self._reserved.cid
            self._vhost_descriptor = self._reserved.descriptor
        start: ColdBoot | Restore
        pass_fds: list[int] = []
        if isinstance(self._start, Template):
            self._restoration = Restoration(self._start, shared=vsock, resources=resources)
            start, pass_fds = self._restoration.start, list(self._restoration.pass_fds)
        else:
            start = self._start
        reserved = self._reserved
        if reserved is not None:
            pass_fds.append(reserved.descriptor)
        command = command_line(self.configuration, self.name, self._directory, self.console.path, start, reserved)
        (self.artifacts / "qemu.sh").write_text(command.script())
        self._state = State.BOOTING
        self._process = resources.enter_context(
            OwnedProcess(command.words, output=self.artifacts / "qemu.log", pass_fds=pass_fds)
        )
        if self._restoration is not None:
            self._restoration.handed_over()
        if reserved is not None:
            reserved.close()  # QEMU has it now, and its end is to give it back
        resources.callback(self._close_monitor)

    def _await_ready(self, deadline: Deadline, ready: Callable[[VM, Deadline], None] | None) -> None:
        try:
            if ready is None:
                self._await_control(deadline)
            else:
                ready(self, deadline)
        except (ChildProcessError, DeadlineExceededError, QMPError, RPCError, TransportError, OSError) as error:
            if self._restoration is not None:
                self._restoration.check()
            raise self._diagnosed(error) from error
        self._state = State.READY
        self.note("ready")

    def _await_control(self, deadline: Deadline) -> None:
        restoration = self._restoration
        first_stream = 1
        if isinstance(self._start, Template):
            first_stream, self.release = self._start.next_stream, self._start.release
        listener = self._started(self._control_listener)
        if restoration is not None:
            restoration.accepted(deadline)
        stream = self._accept(listener, deadline, "QEMU to connect the control channel")
        self.note("control channel connected")
        self._control = GuestControl(stream, self.configuration.request_timeout, first_stream=first_stream)
        self._resources.callback(self._control.close)
        if restoration is None:
            self.release = str(self._control.ping(deadline)["release"])
            self.note("control daemon answered")
            self._control.personalize(self.name, deadline)
            if Transport.VIRTIO_SERIAL in self.configuration.transports:
                self._control.await_ports(self.configuration.serial_ports, deadline)
        else:
            self._control.personalize(self.name, deadline)
            self.note("control daemon answered")
            if VSOCKS & self.configuration.transports:
                self._plug_vsock(deadline)

    def _diagnosed(self, error: Exception) -> BootError:
        if isinstance(error, ConnectionLostError | ConnectionError | QMPError | TransportError):
            # QEMU's sockets close before it has ended; its exit status comes right after.
            with contextlib.suppress(DeadlineExceededError):
                self.process.wait(Deadline(5.0))
        return boot_failure(self.name, error, self.console, self.process, self.artifacts)

    def _plug_vsock(self, deadline: Deadline) -> None:
        monitor = self._monitor = self._open_monitor(deadline)
        kernel = Transport.VHOST_VSOCK in self.configuration.transports
        plug = plug_kernel_vsock(self._vhost_descriptor) if kernel else plug_vsock(self.directory)
        for command, arguments in plug:
            monitor.execute(command, arguments, deadline)
        self.note("vsock device plugged in")
        self.control.await_vsock(self.cid, deadline)
        self.note("vsock device usable")

    def _open_monitor(self, deadline: Deadline) -> Monitor:
        listener = self._started(self._monitor_listener)
        try:
            connection = self._accept(listener, deadline, "QEMU to connect its monitor")
        except ChildProcessError as error:
            raise QMPError(f"the monitor of {self.name} cannot be opened: QEMU ended ({error})") from error
        monitor = Monitor(connection, self.artifacts / "qmp.jsonl", self.name)
        try:
            monitor.open(deadline)
        except BaseException:
            monitor.close()
            raise
        return monitor

    def _close_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.close()

    def note(self, what: str) -> None:
        """Add to the timeline that something has happened."""
        self.timeline.append((what, time.monotonic() - self._begin))

    def _accept(self, listener: socket.socket, deadline: Deadline, awaited: str) -> socket.socket:
        wait_readable(listener, self.process, deadline, awaited)
        return listener.accept()[0]

    @requires(State.READY, instead="only a running machine can be paused")
    def pause(self) -> None:
        """Stop its CPUs."""
        self.monitor.execute("stop")
        self._state = State.PAUSED

    @requires(State.PAUSED, instead="only a paused machine can be resumed")
    def resume(self) -> None:
        """Let its CPUs run again."""
        self.monitor.execute("cont")
        self._state = State.READY

    @requires(State.BOOTING, State.READY, State.PAUSED, instead="it has ended already")
    def kill(self) -> None:
        """Kill QEMU with SIGKILL and wait for its end."""
        self.end_asked = True
        self.process.kill()
        self.process.wait(Deadline(10.0))

    @requires(State.READY, instead="a paused machine cannot power itself off: resume() it, or kill() it")
    def power_off(self, timeout: Deadline | float = 30.0) -> None:
        """Ask the guest to power off and wait until QEMU has ended.

        Raises:
            DeadlineExceededError: It did not end in time.
        """
        deadline = Deadline.of(timeout)
        self.end_asked = True
        self.control.power_off(deadline)
        self.process.wait(deadline)

    def close(self) -> None:
        """End it, however it is, and remove what it has on the host."""
        self.end_asked |= self.state is not State.DEAD
        self._resources.close()
        if self._state is not State.DEFINED:
            self._state = State.DEAD

    def __enter__(self) -> VM:
        if self._state is State.DEFINED:
            self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)
    return listener
