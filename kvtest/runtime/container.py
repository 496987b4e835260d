# SPDX-License-Identifier: Apache-2.0
"""Containers of a pod and their processes, as suites see them."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvtest.deadline import Deadline
from kvtest.errors import RPCError, StateError
from kvtest.runtime import spec, usage
from kvtest.runtime.stdio import Input, Output
from kvtest.runtime.tasks import ExitStatus, PendingExit, Snapshot, Status, Streams
from kvtest.runtime.usage import Usage

if TYPE_CHECKING:
    from kvtest.runtime.pod import Pod

PATIENCE = 30.0
"""Seconds that a call may take where nobody says otherwise."""


class Process:
    """A process of a container.

    Args:
        pod: The pod.
        container: ID of the container.
        name: ID of the process; empty for the container's first one.
        streams: Its streams.
    """

    def __init__(self, pod: Pod, container: str, name: str, streams: Streams) -> None:
        self._pod = pod
        self._container = container
        self.name = name
        self.streams = streams
        self.pid = 0

    @property
    def stdout(self) -> Output:
        """What it writes."""
        return self.streams.stdout

    @property
    def stderr(self) -> Output:
        """Its errors.

        Raises:
            StateError: It has a terminal.
        """
        if self.streams.stderr is None:
            raise StateError("a process with a terminal has one output")
        return self.streams.stderr

    @property
    def stdin(self) -> Input:
        """What it reads.

        Raises:
            StateError: It was created without.
        """
        if self.streams.stdin is None:
            raise StateError("the process has no input", hint="create it with stdin=True")
        return self.streams.stdin

    def start(self, within: Deadline | float = PATIENCE) -> None:
        """Start it."""
        self.pid = self._pod.tasks(self._container).start(self._container, self.name, Deadline.of(within))

    def state(self, within: Deadline | float = PATIENCE) -> Status:
        """Return in what state it is."""
        return self._pod.tasks(self._container).state(self._container, self.name, Deadline.of(within))

    def snapshot(self, within: Deadline | float = PATIENCE) -> Snapshot:
        """Return in what state it is, and what else is told of it then."""
        return self._pod.tasks(self._container).snapshot(self._container, self.name, Deadline.of(within))

    def waiting(self, within: Deadline | float = PATIENCE) -> PendingExit:
        """Ask for its end without waiting for it."""
        return self._pod.tasks(self._container).waiting(self._container, self.name, Deadline.of(within))

    def wait(self, within: Deadline | float = PATIENCE) -> ExitStatus:
        """Wait for its end and return how it ended."""
        deadline = Deadline.of(within)
        return self.waiting(deadline).result(deadline)

    def kill(
        self, number: int = signal.SIGKILL, *, everybody: bool = False, within: Deadline | float = PATIENCE
    ) -> None:
        """Send it a signal.

        Args:
            number: The signal.
            everybody: Whether all processes of the container get it.
            within: When to give up.
        """
        tasks = self._pod.tasks(self._container)
        tasks.kill(self._container, self.name, number, everybody, Deadline.of(within))

    def close_io(self, within: Deadline | float = PATIENCE) -> None:
        """End its input."""
        self._pod.tasks(self._container).close_io(self._container, self.name, Deadline.of(within))

    def resize(self, rows: int, columns: int, within: Deadline | float = PATIENCE) -> None:
        """Change the size of its terminal."""
        self._pod.tasks(self._container).resize(self._container, self.name, rows, columns, Deadline.of(within))

    def delete(self, within: Deadline | float = PATIENCE) -> ExitStatus:
        """Remove it, which has ended, and return how it ended."""
        return self._pod.tasks(self._container).delete(self._container, self.name, Deadline.of(within))


class Container(Process):
    """A container; as a process its first one.

    Args:
        pod: The pod.
        name: Its ID.
        streams: The streams of its first process.

    Attributes:
        processes: What was started beside its first process.
    """

    def __init__(self, pod: Pod, name: str, streams: Streams) -> None:
        super().__init__(pod, name, "", streams)
        self.id = name
        self.processes: list[Process] = []
        self._numbers = itertools.count(1)

    def exec(
        self,
        arguments: Sequence[str],
        *,
        name: str | None = None,
        stdin: bool = False,
        terminal: bool = False,
        start: bool = True,
        configure: Callable[[dict[str, Any]], None] | None = None,
        within: Deadline | float = PATIENCE,
    ) -> Process:
        """Create a process beside the first one, and start it.

        Args:
            arguments: Program and arguments.
            name: Its ID; chosen if ``None``.
            stdin: Whether it has an input.
            terminal: Whether it has a terminal.
            start: Whether to start it.
            configure: Changes its specification, as ``process`` of ``config.json`` has it, before it is created.
            within: When to give up.
        """
        deadline = Deadline.of(within)
        name = f"exec-{next(self._numbers)}" if name is None else name
        streams = self._pod.streams(f"{self.id}-{name}", stdin=stdin, terminal=terminal)
        process = Process(self._pod, self.id, name, streams)
        described = spec.process(arguments, terminal=terminal)
        if configure is not None:
            configure(described)
        self._pod.tasks(self.id).exec(self.id, name, described, streams, deadline)
        self.processes.append(process)
        if start:
            process.start(deadline)
        if streams.stdin is not None:
            streams.stdin.open()
        return process

    def output_of(self, arguments: Sequence[str], within: Deadline | float = PATIENCE) -> bytes:
        """Run a process to its end and return what it has written.

        Raises:
            AssertionError: It has failed.
        """
        deadline = Deadline.of(within)
        process = self.exec(arguments, within=deadline)
        output = process.stdout.read_all(deadline)
        status = process.wait(deadline).status
        assert status == 0, f"{arguments} ended with status {status}: {process.stderr.read_all(deadline)!r}"
        process.delete(deadline)
        return output

    def end_processes(self, within: Deadline | float = PATIENCE) -> None:
        """End what was started beside its first process and is not deleted yet.

        Raises:
            KvtestError: Something did not end.
        """
        deadline = Deadline.of(within)
        processes, self.processes = self.processes, []
        for process in processes:
            with contextlib.suppress(RPCError):  # deleted, or its start has failed
                if process.state(deadline) is not Status.STOPPED:
                    process.kill(within=deadline)
                    process.wait(deadline)
                process.delete(deadline)

    def pids(self, within: Deadline | float = PATIENCE) -> list[int]:
        """Return the IDs of its processes."""
        return self._pod.tasks(self.id).pids(self.id, Deadline.of(within))

    def usage(self, within: Deadline | float = PATIENCE) -> Usage:
        """Return what it uses.

        Raises:
            RPCError: It is told in terms of which nothing is known.
        """
        return usage.decoded(*self.stats(within))

    def stats(self, within: Deadline | float = PATIENCE) -> tuple[str, bytes]:
        """Return what it uses: the type of the message, and the message."""
        return self._pod.tasks(self.id).stats(self.id, Deadline.of(within))

    def update(self, resources: Mapping[str, Any], within: Deadline | float = PATIENCE) -> None:
        """Change its limits.

        Args:
            resources: The new ones, as ``linux.resources`` of the OCI runtime specification has them.
            within: When to give up.
        """
        self._pod.tasks(self.id).update(self.id, resources, Deadline.of(within))

    def pause(self, within: Deadline | float = PATIENCE) -> None:
        """Freeze it."""
        self._pod.tasks(self.id).pause(self.id, Deadline.of(within))

    def resume(self, within: Deadline | float = PATIENCE) -> None:
        """Let it go on."""
        self._pod.tasks(self.id).resume(self.id, Deadline.of(within))

    def delete(self, within: Deadline | float = PATIENCE) -> ExitStatus:
        """Remove it, whose first process has ended, and return how that ended."""
        deadline = Deadline.of(within)
        status = super().delete(deadline)
        self._pod.forget(self, deadline)
        return status
