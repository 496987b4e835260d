#!/usr/bin/python3 -ISu
# SPDX-License-Identifier: Apache-2.0
"""A reference agent that can be broken while it runs: it takes the name of what to break over a Unix socket.

It is the agent under test of the run in which every test of the agent ring has to fail; each function below whose name
it is sent breaks one promise.
"""

from __future__ import annotations

import functools
import itertools
import os
import selectors
import socket
import sys
import tty
from collections import deque
from typing import Any

sys.path.append("/usr/lib/python3/dist-packages")

from kvtest.errors import FrameError, RPCError
from kvtest.guest.agent import (
    connections,
    console,
    container,
    files,
    process,
    removals,
    sandbox,
    spec,
    storage,
    streams,
)
from kvtest.guest.agent.cgroup import Cgroup
from kvtest.guest.agent.crun import Crun
from kvtest.guest.agent.main import SERIAL_PORT, ReferenceAgent
from kvtest.guest.agent.service import AGENT, HEALTH, Service
from kvtest.rpc import api, server
from kvtest.rpc.status import Code

SOCKET = "/run/kvtest/saboteur"


def main() -> None:
    """Serve, and wait to be broken."""
    agent = ReferenceAgent()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(SOCKET)
    listener.listen()

    def breaks() -> None:
        connection, _ = listener.accept()
        with connection:
            globals()[connection.recv(100).decode()](agent)
            connection.sendall(b"broken")

    agent.reactor.watch(listener.fileno(), selectors.EVENT_READ, breaks)
    while True:
        agent.turn()


def _put(owner: Any, name: str, value: Any) -> None:
    """Put something in the place of a function of a class, or of a value of a module."""
    setattr(owner, name, value)


def _read_nothing(client: Any) -> None:
    """Take nothing from a client any more."""
    client._reactor.watch(client._stream.fileno(), selectors.EVENT_READ, None)


def _wrap(agent: Any, method: str, around: Any, service_name: str = AGENT) -> None:
    """Put ``around(original, call)`` in place of a handler."""
    methods = agent.service.services[service_name]
    original = methods[method]
    methods[method] = lambda call: around(original, call)


def _request(call: Any, name: str) -> Any:
    return api.load("agent-3.30").message(f"grpc.{name}").FromString(call.payload)


def _answer(agent: Any, method: str, message: str, service_name: str = AGENT, **fields: Any) -> None:
    """Let a method always give the same."""
    data = api.load("agent-3.30").message(f"grpc.{message}")(**fields).SerializeToString()
    agent.service.services[service_name][method] = lambda call: data


def _accept_all(agent: Any, *methods: str) -> None:
    """Let methods succeed where they should not."""

    def forgiving(original: Any, call: Any) -> Any:
        call.fail = lambda _code, _message: call.reply(b"")
        try:
            return original(call)
        except RPCError:
            return b""

    for method in methods:
        _wrap(agent, method, forgiving)


def _do_nothing(agent: Any, *methods: str) -> None:
    for method in methods:
        agent.service.services[AGENT][method] = lambda call: b""


# --- What an agent says of itself


def says_not_serving(agent: Any) -> None:
    _answer(agent, "Check", "HealthCheckResponse", HEALTH, status="NOT_SERVING")


def has_an_old_version(agent: Any) -> None:
    _answer(agent, "Version", "VersionCheckResponse", HEALTH, agent_version="2.0.1")


def has_two_versions(agent: Any) -> None:
    _answer(agent, "GetGuestDetails", "GuestDetailsResponse", agent_details={"version": "3.0.0"})


# --- A container's life


def keeps_what_is_removed(agent: Any) -> None:
    _do_nothing(agent, "RemoveContainer")


def starts_at_the_creation(agent: Any) -> None:
    create = container.Container.create

    def eager(self: Any, done: Any) -> None:
        create(self, lambda failure: self.start(done) if failure is None else done(failure))

    _put(container.Container, "create", eager)


def starts_twice(agent: Any) -> None:
    _accept_all(agent, "StartContainer")


def never_frees_an_id(agent: Any) -> None:
    used: set[str] = set()
    create = sandbox.Sandbox.create

    def refuse(self: Any, request: Any, done: Any) -> None:
        name = request.container_id
        if name in used:
            raise RPCError(Code.ALREADY_EXISTS, f"{name} was used before")
        used.add(name)
        create(self, request, done)

    _put(sandbox.Sandbox, "create", refuse)


def leaves_directories_and_a_cgroup(agent: Any) -> None:
    def leave(self: Any, path: str, gone: Any = lambda: None) -> None:
        os.rename(path, f"{path}.left")
        os.mkdir(f"/sys/fs/cgroup/left-{os.path.basename(path)}")
        gone()

    _put(removals.Removals, "add", leave)


def leaves_what_could_not_be_created(agent: Any) -> None:
    close = container.Container.close

    def leave(self: Any, gone: Any) -> None:
        if self.state is container.State.CREATING:
            gone()
        else:
            close(self, gone)

    _put(container.Container, "close", leave)


def keeps_what_a_container_wrote(agent: Any) -> None:
    mount = storage.Mounts._mount

    def keep(self: Any, wanted: Any, directory: str | None) -> None:
        mount(self, wanted, directory and f"/run/kvtest/kept{directory}")

    _put(os, "makedirs", functools.partial(os.makedirs, exist_ok=True))
    _put(storage.Mounts, "_mount", keep)


def creates_twice(agent: Any) -> None:
    _accept_all(agent, "CreateContainer")


def refuses_to_remove_what_runs(agent: Any) -> None:
    remove = container.Container.remove

    def refuse(self: Any, *callbacks: Any) -> None:
        if self._init.status is None:
            raise RPCError(Code.FAILED_PRECONDITION, "it runs")
        remove(self, *callbacks)

    _put(container.Container, "remove", refuse)


def finds_no_fault_with_a_program(agent: Any) -> None:
    _accept_all(agent, "CreateContainer", "StartContainer")


def knows_every_container(agent: Any) -> None:
    _accept_all(agent, *agent.service.services[AGENT])


# --- Processes


def adds_one_to_the_status(agent: Any) -> None:
    wait = process.Process.wait

    def wrong(self: Any, call: Any) -> None:
        tell = self._replies.status
        self._replies.status = lambda call, status: tell(call, status + 1)
        wait(self, call)

    _put(process.Process, "wait", wrong)


def tells_the_bare_signal(agent: Any) -> None:
    _put(process, "SIGNALLED", 0)


def sends_sigkill_always(agent: Any) -> None:
    signal = container.Container.signal
    _put(container.Container, "signal", lambda self, name, _number: signal(self, name, 9))


def kills_nobody(agent: Any) -> None:
    _do_nothing(agent, "SignalProcess")


def kills_all_for_one(agent: Any) -> None:
    _put(container.Container, "signal", lambda self, _name, number: self._cgroup.kill(number))


def takes_an_unknown_process_for_the_first(agent: Any) -> None:
    find = container.Container.process

    def first(self: Any, name: str) -> Any:
        try:
            return find(self, name)
        except RPCError:
            return self._init

    _put(container.Container, "process", first)


def mixes_the_outputs(agent: Any) -> None:
    _put(process.Process, "output", lambda self, stream: self.outputs["stderr" if stream == "stdout" else "stdout"])


def executes_outside(agent: Any) -> None:
    import json

    run = Crun.run

    def outside(self: Any, arguments: Any, done: Any, stdio: Any = None) -> None:
        if arguments[0] != "exec":
            run(self, arguments, done, stdio)
            return
        with open(arguments[arguments.index("--process") + 1], encoding="utf-8") as stream:
            argv = json.load(stream)["args"]
        actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(stdio)]
        pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
        with open(arguments[arguments.index("--pid-file") + 1], "w", encoding="ascii") as stream:
            stream.write(str(pid))
        done(None)

    _put(Crun, "run", outside)


def finds_no_fault_with_an_exec(agent: Any) -> None:
    _accept_all(agent, "ExecProcess")


def _change_process(change: Any) -> None:
    original = spec.process

    def changed(message: Any) -> dict[str, Any]:
        result = original(message)
        change(result)
        return result

    _put(spec, "process", changed)


def _change_configuration(change: Any) -> None:
    original = spec.configuration

    def changed(message: Any, name: str) -> dict[str, Any]:
        result = original(message, name)
        change(result)
        return result

    _put(spec, "configuration", changed)


def _lose_what_was_asked(result: Any) -> None:
    asked = {key: result[key] for key in ("terminal", "args") if key in result}
    result.clear()
    result.update(asked, env=["PATH=/bin"], cwd="/", user={"uid": 0, "gid": 0})


def gives_every_process_the_same_privileges(agent: Any) -> None:
    _change_process(_lose_what_was_asked)


def confines_nothing(agent: Any) -> None:
    def change(result: Any) -> None:
        result["root"]["readonly"] = False
        for name in ("sysctl", "maskedPaths", "readonlyPaths"):
            result["linux"].pop(name, None)

    _change_configuration(change)


def shares_namespaces(agent: Any) -> None:
    def change(result: Any) -> None:
        del result["hostname"]
        result["linux"]["namespaces"] = [{"type": "mount"}, {"type": "ipc"}, {"type": "network"}]

    _change_configuration(change)


def ignores_the_size_of_a_terminal(agent: Any) -> None:
    _change_process(lambda result: result.pop("consoleSize", None))
    _put(process.Process, "resize", lambda self, _rows, _columns: None)


def makes_terminals_raw(agent: Any) -> None:
    started = process.Process.started

    def raw(self: Any, *arguments: Any) -> None:
        started(self, *arguments)
        if self._terminal is not None:
            tty.setraw(self._terminal)

    _put(process.Process, "started", raw)


# --- Streams


def _change_output(change: Any) -> None:
    init = streams.Output.__init__

    def changed(self: Any, reactor: Any, descriptor: int, reply: Any) -> None:
        init(self, reactor, descriptor, lambda call, data: reply(call, change(data)))

    _put(streams.Output, "__init__", changed)


def flips_a_byte(agent: Any) -> None:
    _change_output(lambda data: data[:-1] + bytes([data[-1] ^ 1]))


def loses_input(agent: Any) -> None:
    write = streams.Input.write
    numbers = itertools.count()

    def lose(self: Any, call: Any, data: bytes) -> None:
        if next(numbers) == 1:
            self._reply(call, len(data))
        else:
            write(self, call, data)

    _put(streams.Input, "write", lose)


def never_closes_an_input(agent: Any) -> None:
    _do_nothing(agent, "CloseStdin")


def closes_an_input_only_in_name(agent: Any) -> None:
    _put(streams.Input, "close", lambda self: None)


def waits_at_the_end_of_a_stream(agent: Any) -> None:
    _put(streams.Output, "_finish", lambda self: None)


def forgets_output_at_the_end(agent: Any) -> None:
    _put(streams.Output, "process_ended", streams.Output._finish)


def gives_more_than_asked_for(agent: Any) -> None:
    read = streams.Output.read
    _put(streams.Output, "read", lambda self, call, _size: read(self, call, 4096))


def forgets_writers_at_the_end(agent: Any) -> None:
    abandon = streams.Input.abandon

    def forget(self: Any) -> None:
        self._writers = deque()
        abandon(self)

    _put(streams.Input, "abandon", forget)


# --- Resources and files


def counts_nothing(agent: Any) -> None:
    _put(Cgroup, "statistics", lambda self: {})


def counts_everybody(agent: Any) -> None:
    original = Cgroup.statistics
    _put(Cgroup, "statistics", lambda self: original(Cgroup("/kvtest")))


def never_pauses(agent: Any) -> None:
    _do_nothing(agent, "PauseContainer")


def refuses_to_remove_what_is_paused(agent: Any) -> None:
    pause, remove = container.Container.pause, container.Container.remove

    def remember(self: Any, done: Any) -> None:
        self.paused = True
        pause(self, done)

    def refuse(self: Any, *callbacks: Any) -> None:
        if getattr(self, "paused", False):
            raise RPCError(Code.FAILED_PRECONDITION, "it is paused")
        remove(self, *callbacks)

    _put(container.Container, "pause", remember)
    _put(container.Container, "remove", refuse)


def limits_nothing(agent: Any) -> None:
    _put(spec, "resources", lambda message: {})


def never_updates(agent: Any) -> None:
    _do_nothing(agent, "UpdateContainer")


def loses_an_event(agent: Any) -> None:
    _put(sandbox.Sandbox, "_killed", lambda self, name: None)


def tells_an_event_to_all(agent: Any) -> None:
    def all_of_them(self: Any, name: str) -> None:
        waiters, self._oom_waiters = self._oom_waiters, deque()
        for call in waiters:
            self._tell_oom(call, name)

    _put(sandbox.Sandbox, "_killed", all_of_them)


def ignores_permissions(agent: Any) -> None:
    _put(files, "_PERMISSIONS", 0o600)


def keeps_what_is_copied_to_itself(agent: Any) -> None:
    _put(os, "chown", lambda path, user, group: None)


def copies_anywhere(agent: Any) -> None:
    _put(files, "PREFIX", "")


def mounts_no_storage(agent: Any) -> None:
    _put(storage.Mounts, "_mount", lambda self, wanted, _directory: storage._make(wanted.mount_point))


def ignores_the_host_name(agent: Any) -> None:
    _do_nothing(agent, "CreateSandbox")


def leaves_a_container(agent: Any) -> None:
    _do_nothing(agent, "DestroySandbox")


# --- Many clients


def serves_one_client_at_a_time(agent: Any) -> None:
    accept, closed = connections.Clients._accept, connections.Clients._closed

    def one(self: Any, listener: Any) -> None:
        if self._clients:
            self._reactor.forget(listener.fileno())
        else:
            accept(self, listener)

    def next_one(self: Any, client: Any) -> None:
        closed(self, client)
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            self.listen(listener)

    _put(connections.Clients, "_accept", one)
    _put(connections.Clients, "_closed", next_one)


def mixes_containers(agent: Any) -> None:
    latest: list[Any] = []
    init = container.Container.__init__

    def remember(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        latest.append(self)

    _put(container.Container, "__init__", remember)
    _put(container.Container, "process", lambda self, _name: latest[-1]._init)


def _stall_on(agent: Any, method: str) -> None:
    """Read nothing any more once a call of a method waits."""

    def stall(original: Any, call: Any) -> Any:
        result = original(call)
        if result is None and not call.answered:
            _put(connections.Client, "_read", _read_nothing)
            for client in agent.clients._clients:
                _read_nothing(client)
        return result

    _wrap(agent, method, stall)


def is_blocked_by_a_wait(agent: Any) -> None:
    _stall_on(agent, "WaitProcess")


def is_blocked_by_a_read(agent: Any) -> None:
    _stall_on(agent, "ReadStdout")


def is_blocked_by_an_event(agent: Any) -> None:
    _stall_on(agent, "GetOOMEvent")


def is_blocked_by_a_write(agent: Any) -> None:
    _stall_on(agent, "WriteStdin")


def tells_the_first_waiter_only(agent: Any) -> None:
    ended = process.Process.ended

    def first(self: Any, status: int) -> None:
        del self._waiters[1:]
        ended(self, status)

    _put(process.Process, "ended", first)


def lets_both_remove(agent: Any) -> None:
    _accept_all(agent, "RemoveContainer")


def removes_containers_with_their_client(agent: Any) -> None:
    closed = connections.Clients._closed

    def remove(self: Any, client: Any) -> None:
        closed(self, client)
        for one in agent.service.sandbox._containers.values():
            one._cgroup.kill(9)

    _put(connections.Clients, "_closed", remove)


def gives_bytes_twice(agent: Any) -> None:
    _change_output(lambda data: data + data)


def mixes_execs(agent: Any) -> None:
    find = container.Container.process
    _put(
        container.Container,
        "process",
        lambda self, name: self._execs.known[min(self._execs.known)] if self._execs.known else find(self, name),
    )


def answers_in_order(agent: Any) -> None:
    waiting: deque[Any] = deque()
    wait = process.Process.wait

    def ordered(self: Any, call: Any) -> None:
        answers: list[bytes] = []
        reply = call.reply
        waiting.append((reply, answers))

        def hold(data: bytes) -> None:
            answers.append(data)
            while waiting and waiting[0][1]:
                first, (answer,) = waiting.popleft()
                first(answer)

        call.reply = hold
        wait(self, call)

    _put(process.Process, "wait", ordered)


# --- Clients that misbehave


def dies_of_garbage(agent: Any) -> None:
    feed = server.Connection.feed

    def die(self: Any, data: bytes) -> None:
        try:
            feed(self, data)
        except FrameError:
            os._exit(1)

    _put(server.Connection, "feed", die)


def waits_for_the_rest_of_a_frame(agent: Any) -> None:
    read = connections.Client._read

    def wait(self: Any) -> None:
        read(self)
        if self.connection._parser._buffer:
            _put(connections.Client, "_read", _read_nothing)

    _put(connections.Client, "_read", wait)


def calls_the_unknown_internal(agent: Any) -> None:
    fail = server.Call.fail
    _put(server.Call, "fail", lambda self, code, message: fail(self, 13 if code == 12 else code, message))


def answers_no_bad_request(agent: Any) -> None:
    fail = server.Call.fail
    _put(server.Call, "fail", lambda self, code, message: None if code == 3 else fail(self, code, message))


def waits_for_a_client_to_read(agent: Any) -> None:
    def send(self: Any, data: bytes) -> None:
        self._stream.setblocking(True)
        self._stream.sendall(data)

    _put(connections.Client, "_send", send)


def leaks_a_descriptor(agent: Any) -> None:
    init = connections.Client.__init__

    def leak(self: Any, reactor: Any, stream: Any, *rest: Any) -> None:
        os.dup(stream.fileno())
        init(self, reactor, stream, *rest)

    _put(connections.Client, "__init__", leak)


def answers_the_dead(agent: Any) -> None:
    _put(server.Connection, "close", lambda self: None)
    _put(connections.Client, "_send", lambda self, data: self._writer.write(data) if self._open else None)


# --- Lost and found


def leaves_its_sockets_to_a_child(agent: Any) -> None:
    accept = connections.Clients._accept

    def inherit(self: Any, listener: Any) -> None:
        accept(self, listener)
        if os.fork() == 0:
            while True:
                selectors.DefaultSelector().select(1.0)

    _put(connections.Clients, "_accept", inherit)


def ends_a_connection_with_a_late_call(agent: Any) -> None:
    fail = server.Call.fail

    def end(self: Any, code: int, message: str) -> None:
        fail(self, code, message)
        if code == Code.DEADLINE_EXCEEDED:
            for client in list(agent.clients._clients):
                client.close()

    _put(server.Call, "fail", end)


# --- Other ways in


def logs_plain_text(agent: Any) -> None:
    agent.log._lines = deque([b"agent: listening\n"])


def has_one_shell_for_all(agent: Any) -> None:
    accept = console.DebugConsole._accept

    silent: list[Any] = []

    def once(self: Any) -> None:
        accept(self)
        _put(console.DebugConsole, "_accept", lambda self: silent.append(self._listener.accept()))
        self._reactor.watch(self._listener.fileno(), selectors.EVENT_READ, self._accept)

    _put(console.DebugConsole, "_accept", once)
    for (descriptor, event), callback in list(agent.reactor._callbacks.items()):
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, console.DebugConsole):
            agent.reactor.watch(descriptor, event, owner._accept)


def serves_the_first_client_of_a_port_only(agent: Any) -> None:
    reset = connections.SerialChannel._reset

    def never_again(self: Any) -> None:
        reset(self)
        _put(connections.SerialChannel, "_feed", lambda self, data: None)

    _put(connections.SerialChannel, "_reset", never_again)


def takes_all_clients_of_a_port_for_one(agent: Any) -> None:
    _put(connections.SerialChannel, "_reset", lambda self: None)


def has_a_sandbox_for_each_way_in(agent: Any) -> None:
    assert agent.clients.serve_port(SERIAL_PORT)
    tools = agent.service.sandbox._tools
    watches = tools.oom, tools.freezes
    tools = container.Tools(
        tools.reactor, tools.reaper, tools.crun, *watches, tools.replies, tools.removals, f"{tools.directory}/serial"
    )
    other = Service(api.load("agent-3.30"), tools)
    agent.clients._serial._services = other.services
    agent.clients._serial._reset()


if __name__ == "__main__":
    main()
