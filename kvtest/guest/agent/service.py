# SPDX-License-Identifier: Apache-2.0
"""The calls of the API: each decodes its request and asks the sandbox."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from kvtest.errors import RPCError
from kvtest.guest.agent.container import Container, Tools
from kvtest.guest.agent.crun import Done
from kvtest.guest.agent.files import copy_file
from kvtest.guest.agent.process import Replies
from kvtest.guest.agent.sandbox import Sandbox
from kvtest.rpc.api import API
from kvtest.rpc.server import Call, Handler, Services
from kvtest.rpc.status import Code

AGENT = "grpc.AgentService"
HEALTH = "grpc.Health"
#: The version of the API, and the agent version whose behaviour this one has.
API_VERSION = "0.0.1"
VERSION = "4.1.0"
_BLOCK_SIZE = "/sys/devices/system/memory/block_size_bytes"


def replies(api: API) -> Replies:
    """Return how calls of processes are answered in an API."""
    methods = api.methods(AGENT)
    output, taken = methods["ReadStdout"].response, methods["WriteStdin"].response
    status = methods["WaitProcess"].response
    return Replies(
        lambda call, data: call.reply(output(data=data).SerializeToString()),
        lambda call, size: call.reply(taken(len=size).SerializeToString()),
        lambda call, code: call.reply(status(status=code).SerializeToString()),
    )


class Service:
    """The services of an agent.

    Args:
        api: The API in the version that is spoken.
        tools: What its containers share.
    """

    def __init__(self, api: API, tools: Tools) -> None:
        self._api = api
        self._oom = api.message("grpc.OOMEvent")
        self.sandbox = Sandbox(tools, lambda call, name: call.reply(self._oom(container_id=name).SerializeToString()))
        self.services: Services = {
            AGENT: {
                name: self._handler(AGENT, name, method)
                for name, method in {
                    "CreateContainer": self._create,
                    "StartContainer": lambda call, request: self.sandbox[request.container_id].start(_done(call)),
                    "RemoveContainer": lambda call, request: self.sandbox.remove(request.container_id, _done(call)),
                    "ExecProcess": self._exec,
                    "SignalProcess": self._signal,
                    "WaitProcess": lambda call, request: self._process(request).wait(call),
                    "UpdateContainer": self._update,
                    "StatsContainer": self._stats,
                    "PauseContainer": lambda call, request: self._container(request).pause(_done(call)),
                    "ResumeContainer": lambda call, request: self._container(request).resume(_done(call)),
                    "WriteStdin": lambda call, request: self._process(request).input().write(call, request.data),
                    "ReadStdout": lambda call, request: self._read(request, "stdout", call),
                    "ReadStderr": lambda call, request: self._read(request, "stderr", call),
                    "CloseStdin": self._close_input,
                    "TtyWinResize": self._resize,
                    "CreateSandbox": self._create_sandbox,
                    "DestroySandbox": lambda call, _request: self.sandbox.destroy(_done(call)),
                    "GetGuestDetails": self._details,
                    "GetOOMEvent": lambda call, _request: self.sandbox.next_oom(call),
                    "CopyFile": self._copy_file,
                }.items()
            },
            HEALTH: {
                "Check": self._handler(HEALTH, "Check", self._check),
                "Version": self._handler(HEALTH, "Version", self._version),
            },
        }

    def _handler(self, service: str, name: str, method: Callable[[Call, Any], Any]) -> Handler:
        """Return a handler that decodes the request, and encodes a result that is there at once."""
        request = self._api.methods(service)[name].request

        def handle(call: Call) -> bytes | None:
            try:
                message = request.FromString(call.payload)
            except DecodeError as error:
                raise RPCError(Code.INVALID_ARGUMENT, f"the request is no {request.DESCRIPTOR.full_name}") from error
            call.payload = b""  # a call that waits for long need not keep it
            result = method(call, message)
            return None if result is None else bytes(result.SerializeToString())

        return handle

    # --- Health

    def _check(self, _call: Call, _request: Any) -> Any:
        return self._api.message("grpc.HealthCheckResponse")(status="SERVING")

    def _version(self, _call: Call, _request: Any) -> Any:
        return self._api.message("grpc.VersionCheckResponse")(grpc_version=API_VERSION, agent_version=VERSION)

    # --- Containers

    def _create(self, call: Call, request: Any) -> None:
        if not request.HasField("OCI"):
            raise RPCError(Code.INVALID_ARGUMENT, "the request has no OCI specification")
        if not request.OCI.Process.Args:
            raise RPCError(Code.INVALID_ARGUMENT, "the specification has no command")
        for name in ("devices", "sandbox_pidns"):
            if getattr(request, name):
                raise RPCError(Code.UNIMPLEMENTED, f"the reference agent has no {name}")
        self.sandbox.create(request, _done(call))

    def _exec(self, call: Call, request: Any) -> None:
        if not request.process.Args:
            raise RPCError(Code.INVALID_ARGUMENT, "the process has no command")
        self.sandbox[request.container_id].execute(request.exec_id, request.process, _done(call))

    def _signal(self, call: Call, request: Any) -> None:
        if not 0 < request.signal < signal.NSIG:
            raise RPCError(Code.INVALID_ARGUMENT, f"there is no signal {request.signal}")
        self.sandbox[request.container_id].signal(request.exec_id, request.signal)
        call.reply(b"")

    def _container(self, request: Any) -> Container:
        return self.sandbox[request.container_id]

    def _update(self, call: Call, request: Any) -> None:
        self.sandbox[request.container_id].update(request.resources, _done(call))

    def _stats(self, _call: Call, request: Any) -> Any:
        statistics = self.sandbox[request.container_id].statistics()
        return self._api.message("grpc.StatsContainerResponse")(cgroup_stats=statistics)

    # --- Streams

    def _process(self, request: Any) -> Any:
        return self.sandbox[request.container_id].process(request.exec_id)

    def _read(self, request: Any, stream: str, call: Call) -> None:
        self._process(request).output(stream).read(call, request.len)

    def _close_input(self, call: Call, request: Any) -> None:
        self._process(request).close_input()
        call.reply(b"")

    def _resize(self, call: Call, request: Any) -> None:
        self._process(request).resize(request.row, request.column)
        call.reply(b"")

    # --- The sandbox

    def _create_sandbox(self, call: Call, request: Any) -> None:
        for name in ("dns", "sandbox_pidns", "guest_hook_path", "kernel_modules"):
            if getattr(request, name):
                raise RPCError(Code.UNIMPLEMENTED, f"the reference agent has no {name}")
        self.sandbox.prepare(request.hostname, request.storages)
        call.reply(b"")

    def _details(self, _call: Call, request: Any) -> Any:
        details = self._api.message("grpc.GuestDetailsResponse")(
            agent_details={"version": VERSION, "init_daemon": os.getpid() == 1, "supports_seccomp": True},
        )
        if request.mem_block_size:
            try:
                with open(_BLOCK_SIZE, encoding="ascii") as stream:
                    details.mem_block_size_bytes = int(stream.read(), 16)
            except OSError:  # a kernel without memory hot-plug
                details.mem_block_size_bytes = 0
        return details

    def _copy_file(self, call: Call, request: Any) -> None:
        copy_file(request)
        call.reply(b"")


def _done(call: Call) -> Done:
    """Return what answers a call when crun has ended."""

    def done(failure: str | None) -> None:
        if failure is None:
            call.reply(b"")
        else:
            call.fail(Code.INTERNAL, failure)

    return done
