# SPDX-License-Identifier: Apache-2.0
"""One container, from its creation to its removal."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
from collections.abc import Callable
from enum import Enum
from typing import Any

from kvtest.errors import RPCError
from kvtest.guest.agent import spec as specs
from kvtest.guest.agent.cgroup import Cgroup, FreezeWatch, OOMWatch
from kvtest.guest.agent.crun import Crun, Done
from kvtest.guest.agent.execs import Execs
from kvtest.guest.agent.process import Process, Replies
from kvtest.guest.agent.reaper import Reaper
from kvtest.guest.agent.removals import Removals
from kvtest.guest.agent.storage import Mounts
from kvtest.guest.reactor import Reactor
from kvtest.rpc.status import Code


class State(Enum):
    """Where a container is in its life."""

    CREATING = "being created"
    CREATED = "created"
    STARTED = "started"
    REMOVING = "being removed"


class Tools:
    """What containers share.

    Args:
        reactor: The agent's reactor.
        reaper: Tells of the ends of processes.
        crun: Runs crun.
        oom: Watches for processes that are killed for want of memory.
        freezes: Watches for containers that come to a standstill.
        replies: How calls of processes are answered.
        removals: Removes the containers' own directories.
        directory: Where the containers' own directories are.
    """

    def __init__(
        self,
        reactor: Reactor,
        reaper: Reaper,
        crun: Crun,
        oom: OOMWatch,
        freezes: FreezeWatch,
        replies: Replies,
        removals: Removals,
        directory: str,
    ) -> None:
        self.reactor = reactor
        self.reaper = reaper
        self.crun = crun
        self.oom = oom
        self.freezes = freezes
        self.replies = replies
        self.removals = removals
        self.directory = directory


class Container:
    """A container.

    Args:
        tools: What it shares with others.
        name: Its ID.
        request: The ``grpc.CreateContainerRequest``.
        oom: Called when a process of it is killed for want of memory.

    Raises:
        RPCError: What it needs could not be mounted.
    """

    def __init__(self, tools: Tools, name: str, request: Any, oom: Callable[[], None]) -> None:
        spec = request.OCI
        self.name = name
        self.state = State.CREATING
        self._tools = tools
        self._first = request.exec_id  # what its first process is called, besides the empty string
        self._directory = f"{tools.directory}/containers/{name}"
        self._numbers = itertools.count(1)
        self._cgroup = Cgroup(specs.cgroup_path(spec.Linux.CgroupsPath, name))
        self._oom = oom
        self._oom_watch: int | None = None
        self._stop_waiting: Callable[[], None] = lambda: None
        self._size = (spec.Process.ConsoleSize.Height, spec.Process.ConsoleSize.Width)
        self._execs = Execs()
        with contextlib.ExitStack() as made:
            os.makedirs(self._directory, mode=0o700)
            made.callback(tools.removals.add, self._directory)
            self._mounts = Mounts(request.storages, self._directory)
            made.callback(self._mounts.close)
            with open(f"{self._directory}/config.json", "w", encoding="utf-8") as stream:
                json.dump(specs.configuration(spec, name), stream)
            self._init = self._process(spec.Process.Terminal)
            made.pop_all()

    # --- Life

    def create(self, done: Done) -> None:
        """Have crun make it; its first process waits for :meth:`start`."""
        pid_file = f"{self._directory}/pid"
        # The root of a guest is an initramfs, which pivot_root(2) refuses to leave.
        arguments = ["create", "--no-pivot", "--bundle", self._directory, "--pid-file", pid_file]
        if self._init.stdio is None:
            arguments += ["--console-socket", str(self._init.console)]

        def created(failure: str | None) -> None:
            if failure is None:
                self._init.started(_read_number(pid_file), self._size)
                self._watch(self._init)
                self._oom_watch = self._tools.oom.add(self._cgroup, self._oom)
                self.state = State.CREATED
            done(failure)

        self._tools.crun.run([*arguments, self.name], created, self._init.stdio)

    def start(self, done: Done) -> None:
        """Let its first process run.

        Raises:
            RPCError: It has been started.
        """
        self._require(State.CREATED)
        self.state = State.STARTED  # a second call that comes before crun has ended is one too many

        def started(failure: str | None) -> None:
            if failure is not None and self.state is State.STARTED:
                self.state = State.CREATED
            done(failure)

        self._tools.crun.run(["start", self.name], started)

    def remove(self, closed: Callable[[], None], done: Done) -> None:
        """End its processes and take it away.

        Args:
            closed: Called when there is none of its name any more.
            done: Called when nothing of it is left, or it could not be taken away.

        Raises:
            RPCError: Somebody else is about to, or it is not complete yet.
        """
        self._require(State.CREATED, State.STARTED)
        before, self.state = self.state, State.REMOVING

        def removed(failure: str | None) -> None:
            if failure is None:
                closed()
                self.close(lambda: done(None))
            else:
                self.state = before
                done(failure)

        self._tools.crun.run(["delete", "--force", self.name], removed)

    def close(self, gone: Callable[[], None]) -> None:
        """Give back all that it has in this process and in the file system.

        Args:
            gone: Called when its files are gone; its name is free when this returns.
        """
        self._tools.oom.remove(self._oom_watch)
        self._stop_waiting()
        for process in (self._init, *self._execs):
            process.close()
        self._mounts.close()
        self._tools.removals.add(self._directory, gone)

    # --- Processes

    def process(self, name: str) -> Process:
        """Return a process.

        Raises:
            RPCError: There is none of that name.
        """
        if name in ("", self._first):
            return self._init
        found = self._execs.find(name)
        if found is None:
            raise RPCError(Code.NOT_FOUND, f"{self.name} has no process {name!r}")
        return found

    def execute(self, name: str, message: Any, done: Done) -> None:
        """Start another process in it.

        Args:
            name: What it is called.
            message: A ``grpc.Process``.
            done: Called when it runs, or could not be started.

        Raises:
            RPCError: There is one of that name, or the container does not run.
        """
        before = self._execs.find(name)
        if not name or name == self._first or (before is not None and before.status is None):
            raise RPCError(Code.ALREADY_EXISTS, f"{self.name} has a process {name!r}")
        self._require(State.STARTED)
        if self._init.status is not None:
            raise RPCError(Code.FAILED_PRECONDITION, f"{self.name} has ended")
        process = self._process(message.Terminal)
        self._execs.add(name, process)
        stem = f"{self._directory}/exec-{next(self._numbers)}"
        with open(f"{stem}.json", "w", encoding="utf-8") as stream:
            json.dump(specs.process(message), stream)
        arguments = ["exec", "--detach", "--process", f"{stem}.json", "--pid-file", f"{stem}.pid"]
        if process.stdio is None:
            arguments += ["--console-socket", str(process.console)]

        def started(failure: str | None) -> None:
            if failure is None:
                process.started(_read_number(f"{stem}.pid"), (message.ConsoleSize.Height, message.ConsoleSize.Width))
                self._watch(process)
                if message.OOMScoreAdj:  # which crun keeps for a first process only
                    process.adjust_oom_score(message.OOMScoreAdj)
            else:
                self._execs.remove(name, process)
            done(failure)

        self._tools.crun.run([*arguments, self.name], started, process.stdio)

    def signal(self, process: str, number: int) -> None:
        """Send a signal; SIGKILL for the first process goes to all.

        A signal that ends a process by default does not reach the first of a PID namespace that has no handler for it
        (pid_namespaces(7)): a SIGTERM that would be lost so is sent as SIGKILL.
        """
        target = self.process(process)
        if target is not self._init:
            target.signal(number)
        elif number == signal.SIGKILL:
            self._cgroup.kill(number)
        elif target.pid is not None and target.status is None:
            lost = number == signal.SIGTERM and not _handles(target.pid, number)
            target.signal(signal.SIGKILL if lost else number)

    def _process(self, terminal: bool) -> Process:
        console = f"{self._directory}/console-{next(self._numbers)}" if terminal else None
        return Process(self._tools.reactor, self._tools.replies, console)

    def _watch(self, process: Process) -> None:
        assert process.pid is not None
        self._tools.reaper.watch(process.pid, process.ended)

    # --- The rest

    def statistics(self) -> dict[str, Any]:
        """Return the fields of ``grpc.CgroupStats``."""
        return self._cgroup.statistics()

    def pause(self, done: Done) -> None:
        """Stop all of its processes; done when they stand still."""
        self._require(State.CREATED, State.STARTED)

        def paused(failure: str | None) -> None:
            if failure is not None:
                done(failure)
            else:
                self._stop_waiting = self._tools.freezes.when_frozen(self._cgroup, lambda: done(None))

        self._tools.crun.run(["pause", self.name], paused)

    def resume(self, done: Done) -> None:
        """Let its processes go on."""
        self._require(State.CREATED, State.STARTED)
        self._tools.crun.run(["resume", self.name], done)

    def update(self, resources: Any, done: Done) -> None:
        """Change its limits to those of a ``grpc.LinuxResources``."""
        self._require(State.CREATED, State.STARTED)
        path = f"{self._directory}/resources-{next(self._numbers)}.json"
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(specs.resources(resources), stream)
        self._tools.crun.run(["update", "--resources", path, self.name], done)

    def prune(self) -> None:
        """Forget calls that nobody waits for any more."""
        for process in (self._init, *self._execs):
            process.prune()

    def _require(self, *states: State) -> None:
        if self.state not in states:
            raise RPCError(Code.FAILED_PRECONDITION, f"{self.name} is {self.state.value}")


def _read_number(path: str) -> int:
    with open(path, encoding="ascii") as stream:
        return int(stream.read())


def _handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal (proc_pid_status(5), SigCgt)."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as stream:
            (mask,) = (int(line.split()[1], 16) for line in stream if line.startswith("SigCgt:"))
    except (OSError, ValueError):
        return True
    return bool(mask >> (number - 1) & 1)
