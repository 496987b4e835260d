# SPDX-License-Identifier: Apache-2.0
"""Ways to break what a shim does with a container as a whole: its configuration, its limits, all of its processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from kvtest.rpc.envelope import Request, Response
from kvtest.runtime import Status
from kvtest.runtime.agent import Agent
from kvtest.runtime.reference import container, guest_spec, process, streams
from kvtest.runtime.reference.tasks import Tasks
from tests.saboteurs.inside import in_the_shim, replace
from tests.saboteurs.registry import breaks
from tests.saboteurs.wire import Fault, altered, asked, between, ok

# --- Between a shim and its clients


@breaks("RUNTIME-KILL-002")
@contextlib.contextmanager
def signals_the_first_only() -> Iterator[None]:
    """A signal for all processes reaches the first one."""

    class First(Fault):
        def request(self, request: Request) -> Request | Response | None:
            if request.method != "Kill":
                return request
            message = asked(request, "KillRequest")
            message.all = False
            return request._replace(payload=message.SerializeToString())

    with between(First()):
        yield


@breaks("RUNTIME-PAUSE-001")
@contextlib.contextmanager
def pauses_the_first_only() -> Iterator[None]:
    """Of a container that is paused the processes beside the first one go on."""

    @attrs.define
    class First(Fault):
        pid: int = 0
        paused: bool = False

        def request(self, request: Request) -> Request | Response | None:
            if request.method not in ("Pause", "Resume"):
                return request
            self.paused = request.method == "Pause"
            os.kill(self.pid, signal.SIGSTOP if self.paused else signal.SIGCONT)
            return ok()

        def response(self, request: Request, response: Response) -> Response | None:
            if request.method == "Create":
                self.pid = asked(Request("", "", response.payload, 0), "CreateTaskResponse").pid
            paused = self.paused and request.method == "State"
            return altered(response, "StateResponse", status=int(Status.PAUSED)) if paused else response

    with between(First()):
        yield


@breaks("RUNTIME-STATS-001")
@contextlib.contextmanager
def tells_the_first_usage() -> Iterator[None]:
    """What was told of one container is told of each, and again and again."""

    @attrs.define
    class First(Fault):
        told: Response | None = None

        def response(self, request: Request, response: Response) -> Response | None:
            if request.method != "Stats":
                return response
            self.told = self.told or response
            return self.told

    with between(First()):
        yield


@contextlib.contextmanager
def _updating(kept: Any) -> Iterator[None]:
    """Pass on those limits for whose kind and values ``kept`` returns ``True``."""

    class Some(Fault):
        def request(self, request: Request) -> Request | Response | None:
            if request.method != "Update":
                return request
            message = asked(request, "UpdateTaskRequest")
            limits = {
                kind: values for kind, values in json.loads(message.resources.value).items() if kept(kind, values)
            }
            message.resources.value = json.dumps(limits).encode()
            return request._replace(payload=message.SerializeToString())

    with between(Some()):
        yield


@breaks("RUNTIME-UPDATE-001")
@contextlib.contextmanager
def limits_only_processes() -> Iterator[None]:
    """Changed limits of memory and CPU are ignored."""
    with _updating(lambda kind, values: kind == "pids"):
        yield


@breaks("RUNTIME-UPDATE-001")
@contextlib.contextmanager
def lifts_no_limit() -> Iterator[None]:
    """A limit that is to be lifted stays."""
    with _updating(lambda kind, values: -1 not in values.values()):
        yield


def _created_with(change: Callable[[dict[str, Any]], object]) -> contextlib.AbstractContextManager[None]:
    """Have containers created with configurations that were changed."""

    class Changed(Fault):
        def request(self, request: Request) -> Request | Response | None:
            if request.method == "Create":
                path = Path(asked(request, "CreateTaskRequest").bundle) / "config.json"
                configuration = json.loads(path.read_bytes())
                change(configuration)
                path.write_text(json.dumps(configuration))
            return request

    return between(Changed())


@breaks("RUNTIME-CONFIG-004")
def has_another_host_name() -> contextlib.AbstractContextManager[None]:
    """A container has another host name than it was to have."""
    return _created_with(lambda configuration: configuration.update(hostname="another"))


@breaks("RUNTIME-CONFIG-005")
def limits_only_memory() -> contextlib.AbstractContextManager[None]:
    """Limits of CPU and processes that a container is created with are ignored."""

    def change(configuration: dict[str, Any]) -> None:
        resources = configuration["linux"]["resources"]
        configuration["linux"]["resources"] = {key: resources[key] for key in resources if key == "memory"}

    return _created_with(change)


# --- In the processes of the reference shim


@in_the_shim("RUNTIME-STDIO-007")
def tells_no_streams() -> None:
    """The state of a process tells no streams."""
    replace(process.Stdio, "fields", lambda self: {})


@in_the_shim("RUNTIME-STDIO-008")
def ends_the_input_with_its_client() -> None:
    """The input of a process ends with the first client that closes it, and not with CloseIO."""

    def broken(self: streams.Input, agent: Agent) -> None:
        os.close(self._writer)
        with open(f"/proc/self/fd/{self._source}", "rb", buffering=0) as stream:  # as soon as there is a client
            while data := stream.read(1 << 16):
                self._write(agent, data)
        agent.call("CloseStdin", None, **self._names)

    replace(streams.Input, "_run", broken)


@in_the_shim("RUNTIME-STDIO-008")
def ends_every_input() -> None:
    """CloseIO ends the inputs of all processes of a container."""

    def broken(self: Tasks, request: Any) -> None:
        for one in reversed(self._container(request.id).processes.values()):  # with the first all would end
            one.close_input()
            one.waiter().wait()

    replace(Tasks, "_closeio", broken)


@in_the_shim("RUNTIME-CONFIG-001")
def has_no_resource_limits() -> None:
    """The resource limits of a process are ignored."""
    translate = guest_spec._process
    replace(guest_spec, "_process", lambda found: {**translate(found), "Rlimits": []})


@in_the_shim("RUNTIME-EXEC-006")
def executes_programs_only() -> None:
    """Of a process beside the first one the program and its arguments are taken, and all else is the usual."""
    add = container.Container.add

    def broken(self: container.Container, name: str, found: Any, stdio: process.Stdio) -> None:
        add(self, name, {"args": found["args"], "env": found["env"][:1], "consoleSize": found["consoleSize"]}, stdio)

    replace(container.Container, "add", broken)


@in_the_shim("RUNTIME-EXEC-007")
def has_limits_of_another() -> None:
    """The limits on open files of some processes are those of the one that was executed before."""
    add, before = container.Container.add, []

    def broken(self: container.Container, name: str, found: Any, stdio: process.Stdio) -> None:
        before.append(found["rlimits"])
        add(self, name, {**found, "rlimits": before[-2:][0]}, stdio)

    replace(container.Container, "add", broken)


@in_the_shim("RUNTIME-STDIO-009")
def has_terminals_of_one_size() -> None:
    """The size that a terminal is to have is ignored."""
    translate = guest_spec._process
    replace(guest_spec, "_process", lambda found: {**translate(found), "ConsoleSize": {}})


@in_the_shim("RUNTIME-CONFIG-003")
def binds_nothing() -> None:
    """Bind mounts are left out."""
    translate = guest_spec.mounts
    replace(guest_spec, "mounts", lambda found: [mount for mount in translate(found) if mount["type"] != "bind"])


@in_the_shim("RUNTIME-CONFIG-003")
def may_write_everywhere() -> None:
    """What is to be read-only is not."""
    translate = guest_spec.specification

    def broken(configuration: Any, name: str, root: str) -> dict[str, Any]:
        found = translate(configuration, name, root)
        found["Linux"]["ReadonlyPaths"] = []
        return found

    replace(guest_spec, "specification", broken)
