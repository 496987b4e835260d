# SPDX-License-Identifier: Apache-2.0
"""APIs spoken from descriptor sets: one pool of messages for each, and no generated modules.

A private pool per API lets several versions of one package live in one process. The texts are in ``protos/``, written
for kvtest from the documented field numbers; ``ci/descriptors`` compiles them. This module needs ``protobuf``, which
the control channel does without: guests that only have a control daemon never import it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from kvtest.deadline import Deadline
from kvtest.errors import FrameError, UnknownNameError
from kvtest.rpc.client import Client, PendingCall

_DESCRIPTORS = Path(__file__).with_name("descriptors")


class Method(NamedTuple):
    """One method of a service.

    Args:
        request: The class of what it takes.
        response: The class of what it returns.
    """

    request: type[Message]
    response: type[Message]


class API:
    """The messages and services of one descriptor set.

    Args:
        descriptors: An encoded ``FileDescriptorSet`` that holds everything that its files import.
    """

    def __init__(self, descriptors: bytes) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        self._services: dict[str, Mapping[str, Method]] = {}
        for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
            self._pool.Add(file)

    def message(self, name: str) -> type[Any]:
        """Return the class of a message.

        Args:
            name: Its full name, such as ``grpc.CreateContainerRequest``.

        Raises:
            KeyError: There is none of that name.
        """
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))

    def methods(self, service: str) -> Mapping[str, Method]:
        """Return the methods of a service by name.

        Args:
            service: Its full name, such as ``grpc.AgentService``.

        Raises:
            KeyError: There is none of that name.
        """
        if service not in self._services:
            self._services[service] = {
                method.name: Method(
                    message_factory.GetMessageClass(method.input_type),
                    message_factory.GetMessageClass(method.output_type),
                )
                for method in self._pool.FindServiceByName(service).methods
            }
        return self._services[service]


@functools.cache
def load(name: str) -> API:
    """Return an API, loaded once per process.

    Args:
        name: One of ``apis.toml``.

    Raises:
        UnknownNameError: There is none of that name.
    """
    path = _DESCRIPTORS / f"{name}.binpb"
    if not path.is_file():
        raise UnknownNameError("API", name, [entry.stem for entry in _DESCRIPTORS.glob("*.binpb")])
    return API(path.read_bytes())


class Pending:
    """A call that has been sent.

    Args:
        call: The call.
        response: The class of its result.
        name: What to call it in messages.
    """

    def __init__(self, call: PendingCall, response: type[Message], name: str) -> None:
        self._call = call
        self._response = response
        self._name = name

    @property
    def answered(self) -> bool:
        """Whether the answer is there, or never will be."""
        return self._call.answered

    def result(self, deadline: Deadline | float | None) -> Any:
        """Wait for the answer and return it; raises as :meth:`Service.call` does."""
        data = self._call.result(Deadline.of(deadline))
        try:
            return self._response.FromString(data)
        except DecodeError as error:
            raise FrameError(f"the answer to {self._name} is no {self._response.DESCRIPTOR.full_name}") from error


class Service:
    """One service of an API, called over one connection.

    Args:
        client: The connection.
        api: The API.
        name: Full name of the service.
    """

    def __init__(self, client: Client, api: API, name: str) -> None:
        self.client = client
        self._name = name
        self._methods = api.methods(name)

    def call(self, method: str, request: Message | None = None, *, deadline: Deadline | float | None) -> Any:
        """Call a method and return its result.

        Args:
            method: Name of the method.
            request: The argument; an empty one if ``None``.
            deadline: When to give up; also told to the server.

        Raises:
            RPCError: The server answered with a status other than OK.
            ConnectionLostError: The connection ended before the answer.
            DeadlineExceededError: No answer came in time.
            FrameError: The argument is over ttRPC's limit, or the answer is not what the method returns.
        """
        deadline = Deadline.of(deadline)
        return self.begin(method, request, deadline=deadline).result(deadline)

    def begin(self, method: str, request: Message | None = None, *, deadline: Deadline | float | None) -> Pending:
        """Send a call without waiting for its answer; see :meth:`call` for the arguments."""
        types = self._methods[method]
        payload = (types.request() if request is None else request).SerializeToString()
        call = self.client.begin(self._name, method, payload, Deadline.of(deadline))
        return Pending(call, types.response, f"{self._name}.{method}")
