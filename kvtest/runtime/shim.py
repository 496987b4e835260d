# SPDX-License-Identifier: Apache-2.0
"""Shims as programs: ``start`` and ``delete``, and the process that ``start`` leaves running.

containerd runs a shim in the directory of a bundle, with its standard input at its end, and takes the address of the
shim's socket from its standard output (runtime/v2/README.md of containerd).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from attrs import define, frozen
from google.protobuf.message import DecodeError

from kvtest.deadline import Deadline
from kvtest.errors import DeadlineExceededError, HostError, RPCError, ShimError
from kvtest.ownership import AdoptedProcess, MountNamespace, run
from kvtest.ownership.process import Completed
from kvtest.rpc.api import Service, load
from kvtest.rpc.client import Client
from kvtest.runtime.installation import Installation
from kvtest.runtime.tasks import TASK, ExitStatus, ShimTasks

_LONGEST_TAIL = 2000
_SCHEME = "unix://"
_ANSWER = 'such as {"version": 2, "address": "unix:///run/shim.sock", "protocol": "ttrpc"}, or the address alone'


@frozen
class Place:
    """Where a shim is started for a container, and on whose behalf.

    Args:
        installation: The runtime.
        namespace: containerd's namespace.
        name: ID of the container.
        bundle: Its bundle.
        sink: Socket of the events service.
        address: Socket of containerd, which shims only make names from.
        mounts: The mount namespace that it runs in; ours if ``None``.
    """

    installation: Installation
    namespace: str
    name: str
    bundle: Path
    sink: Path
    address: Path
    mounts: MountNamespace | None = None

    def command(self, *words: str) -> list[str | Path]:
        """Return a command of the shim."""
        flags = ("-namespace", self.namespace, "-address", str(self.address), "-publish-binary", "/bin/true")
        return [self.installation.shim, *flags, "-id", self.name, *words]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the shim."""
        return {
            **os.environ,
            "TTRPC_ADDRESS": str(self.sink),
            "GRPC_ADDRESS": str(self.address),
            "NAMESPACE": self.namespace,
            "GOMAXPROCS": "2",
            **self.installation.environment,
        }

    @property
    def log(self) -> str:
        """The end of what the shim has logged."""
        with contextlib.suppress(OSError):
            return (self.bundle / "log").read_text(errors="replace")[-_LONGEST_TAIL:].strip()
        return ""

    def run(self, words: tuple[str, ...], deadline: Deadline) -> Completed:
        """Run the shim to the end of a command.

        Raises:
            ShimError: It could not be started, or did not end.
        """
        shim = self.installation.shim
        try:
            return run(
                self.command(*words),
                environment=self.environment,
                directory=self.bundle,
                deadline=deadline,
                mounts=self.mounts,
            )
        except DeadlineExceededError as error:
            raise ShimError(
                f"{shim} did not come to the end of {words[-1]!r} in {deadline.elapsed:.1f} s{_said(self.log)}",
                hint=f"run it by hand in a bundle: {shim} -namespace N -id ID {words[-1]} </dev/null",
            ) from error
        except HostError as error:
            raise ShimError(error.message, hint=f"is {shim} a program for this machine?") from error


@define
class StartedShim:
    """A shim that was started and has answered.

    Args:
        address: Path of its socket.
        client: The connection to it.
        tasks: What can be asked of it.
        pid: Its process ID.
    """

    address: Path
    client: Client
    tasks: ShimTasks
    pid: int


def start(place: Place, ended: Callable[[], None], deadline: Deadline) -> StartedShim:
    """Start a shim for a container as containerd would, or be given one that serves the container's pod.

    Args:
        place: Where.
        ended: Called when the connection has ended.
        deadline: When to give up.

    Raises:
        ShimError: It did not start, or not as it has to.
    """
    shim = place.installation.shim
    if not (place.bundle / "config.json").is_file():
        raise ShimError(f"the bundle {place.bundle} has no config.json", hint="an OCI bundle has one beside its rootfs")
    completed = place.run(("start",), deadline)
    if completed.status != 0:
        said = _said(completed.stderr, completed.stdout, place.log)
        raise ShimError(
            f"{shim}: 'start' ended ({completed.ending}){said}",
            hint=f"run it by hand in a bundle: {shim} -namespace N -id ID start </dev/null",
        )
    address = parse_address(completed.stdout, shim)
    client = connect(address, ended, place)
    tasks = ShimTasks(Service(client, load("task"), f"{TASK}.Task"))
    try:
        pid = tasks.connect(place.name, deadline).shim_pid
    except (RPCError, DeadlineExceededError) as error:
        client.close()
        does = "refuses" if error.refused else "does not answer"
        raise ShimError(
            f"{shim} {does} at {address}: {error.message}{_said(place.log)}",
            hint="is it a containerd shim v2?",
        ) from error
    return StartedShim(address, client, tasks, pid)


def parse_address(text: str, shim: Path) -> Path:
    """Return the socket that ``start`` has printed: an address, or JSON with one.

    Raises:
        ShimError: It has printed something else.
    """
    written = text.strip()
    if not written:
        raise ShimError(f"{shim}: 'start' printed no address", hint="it has to print the address of its socket")
    address = written
    if written.startswith("{"):
        try:
            answer = json.loads(written)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("address"), str):
            raise ShimError(f"{shim}: 'start' printed JSON without an address: {written[:200]!r}", hint=_ANSWER)
        if answer.get("protocol", "ttrpc") != "ttrpc":
            raise ShimError(f"{shim} speaks {answer['protocol']!r}, kvtest speaks ttrpc", hint=_ANSWER)
        if answer.get("version", 2) not in (2, 3):
            raise ShimError(
                f"{shim} speaks version {answer['version']!r} of the Task API, kvtest speaks 2 and 3", hint=_ANSWER
            )
        address = answer["address"]
    path = address.removeprefix(_SCHEME)
    if not path.startswith("/") or any(character.isspace() for character in path):
        raise ShimError(
            f"{shim}: 'start' printed what is no address: {written[:200]!r}", hint=f"{_SCHEME}/PATH, and nothing else"
        )
    return Path(path)


def connect(address: Path, ended: Callable[[], None], place: Place) -> Client:
    """Connect to a shim.

    Raises:
        ShimError: Nobody listens.
    """
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.connect(str(address))
    except OSError as error:
        stream.close()
        raise ShimError(
            f"{place.installation.shim} does not listen at {address}, which it has printed: "
            f"{error.strerror or error}{_said(place.log)}",
            hint="it has ended at once, or has printed another address than it listens at",
        ) from error
    return Client(stream, f"the shim of {place.name}", ended=ended)


def connect_again(address: Path) -> ShimTasks:
    """Return another client of a shim that runs already; who asks closes its connection.

    Args:
        address: Its socket.
    """
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.connect(str(address))
    return ShimTasks(Service(Client(stream, f"the shim at {address}"), load("task"), f"{TASK}.Task"))


def delete(place: Place, deadline: Deadline) -> ExitStatus:
    """Have a shim remove what is left of a container, as containerd does when it has lost the shim.

    Raises:
        ShimError: It did not, or not in time.
    """
    completed = place.run(("-bundle", str(place.bundle), "delete"), deadline)
    shim = place.installation.shim
    if completed.status != 0:
        raise ShimError(f"{shim}: 'delete' ended ({completed.ending}){_said(completed.stderr)}")
    try:
        response = load("task").message(f"{TASK}.DeleteResponse").FromString(completed.output)
    except DecodeError as error:
        raise ShimError(f"{shim}: 'delete' printed no DeleteResponse: {completed.output[:200]!r}") from error
    return ExitStatus.of(response)


class ShimProcess:
    """The process of a shim.

    Args:
        pid: Its process ID.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._adopted: AdoptedProcess | None = None
        try:
            self._adopted = AdoptedProcess(pid)
            self._pidfd = os.dup(self._adopted.pidfd)
        except HostError:  # another's child, such as containerd's
            self._pidfd = os.pidfd_open(pid)

    @classmethod
    def succeeding(cls, before: ShimProcess | None, pid: int) -> ShimProcess:
        """Return the process of a shim: the one that is known, or another in its place.

        Args:
            before: The one that is known, if one is.
            pid: Its process ID now.
        """
        if before is not None:
            if before.pid == pid:
                return before
            before.close()
        return cls(pid)

    @property
    def status(self) -> int | None:
        """Its exit status or the negated signal that ended it; ``None`` if it runs or its parent alone knows."""
        return self._adopted.status if self._adopted is not None else None

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal; harmless once it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def wait(self, within: Deadline | float) -> int | None:
        """Wait for its end and return :attr:`status`.

        Raises:
            DeadlineExceededError: It still runs.
        """
        deadline = Deadline.of(within)
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(deadline.remaining_ms):
            raise deadline.exceeded(f"the shim, process {self.pid}, to end")
        return self._adopted.wait(deadline) if self._adopted is not None else None

    def close(self) -> None:
        """Give its descriptors back, and end it if it is ours."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._adopted is not None:
            self._adopted.close()


def _said(*texts: str) -> str:
    said = "\n".join(text.strip()[-_LONGEST_TAIL:] for text in texts if text.strip())
    return f"; it said:\n{said}" if said else ""
