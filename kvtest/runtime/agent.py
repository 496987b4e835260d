# SPDX-License-Identifier: Apache-2.0
"""A client of a guest agent: one connection, any number of calls at once, each with a deadline."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from attrs import Factory, evolve, frozen

from kvtest.deadline import Deadline
from kvtest.errors import ConnectionLostError, RPCError
from kvtest.rpc import api
from kvtest.rpc.client import Client
from kvtest.runtime.agent_address import AgentAddress, VsockAddress, parse_address
from kvtest.runtime.agent_container import Container
from kvtest.runtime.agent_dial import dial
from kvtest.runtime.agent_spec import CONTAINER_ROOT, specification
from kvtest.runtime.agent_versions import Behaviour, behaviour_of
from kvtest.vsock.reservation import require_reserved

AGENT = "grpc.AgentService"
HEALTH = "grpc.Health"
_NEWEST = "agent-3.30"

Patience = Deadline | float | None


@frozen
class AgentEndpoint:
    """An agent that can be dialled.

    Args:
        address: Where it is.
        timeout: Seconds for a call, and for a connection, that is given no deadline.
        container_root: Directory in the guest that is the root of containers.
        api: Name of the descriptor set.
        created: IDs of the containers that were created, over any connection.
    """

    address: AgentAddress
    timeout: float = 30.0
    container_root: str = CONTAINER_ROOT
    api: str = _NEWEST
    created: set[str] = Factory(set)

    @classmethod
    def of(cls, text: str, timeout: float = 30.0) -> AgentEndpoint:
        """Return the endpoint at an address as users write it.

        Raises:
            UsageError: It is none.
            HostError: It is a vsock one, and no guest of this machine has its CID.
        """
        address = parse_address(text)
        if isinstance(address, VsockAddress):
            require_reserved(address.cid)
        return cls(address, timeout)

    def in_its_version(self) -> AgentEndpoint:
        """Return the endpoint with the API that its agent speaks, which the agent is asked for."""
        with self.connect() as agent:
            return evolve(self, api=agent.behaviour.api)

    def remove_all(self) -> None:
        """Remove the containers that were created and are still there."""
        with self.connect() as agent:
            for name in sorted(self.created):
                try:
                    agent.container(name).remove()
                except ConnectionLostError:
                    raise
                except RPCError:  # it has been removed
                    continue
        self.created.clear()

    def connect(self, deadline: Patience = None, ended: Callable[[], None] | None = None) -> Agent:
        """Return a new connection; raises as :func:`kvtest.runtime.agent_dial.dial` does.

        Args:
            deadline: When to give up.
            ended: Called once when the connection has ended, on the thread that noticed.
        """
        stream = dial(self.address, Deadline.of(self.timeout if deadline is None else deadline))
        return Agent(self, Client(stream, f"agent at {self.address}", ended=ended))


class Agent:
    """One connection to an agent.

    Args:
        endpoint: What it is connected to.
        client: The connection.
    """

    def __init__(self, endpoint: AgentEndpoint, client: Client) -> None:
        self.endpoint = endpoint
        self.client = client
        self._api = api.load(endpoint.api)
        self._agent = api.Service(client, self._api, AGENT)
        self._health = api.Service(client, self._api, HEALTH)
        self._behaviour: Behaviour | None = None

    # --- Calls

    def message(self, name: str, **fields: Any) -> Any:
        """Return a message of the API.

        Args:
            name: Its name, without the package.
            **fields: What it holds.
        """
        return self._api.message(f"grpc.{name}")(**fields)

    def call(self, method: str, deadline: Patience = None, **fields: Any) -> Any:
        """Call a method of the agent and return its result.

        Args:
            method: Name of the method.
            deadline: When to give up; also told to the agent.
            **fields: What the request holds.

        Raises:
            RPCError: The agent refused.
            ConnectionLostError: The connection ended before the answer.
            DeadlineExceededError: No answer came in time.
        """
        limit = self._limit(deadline)
        return self.begin(method, limit, **fields).result(limit)

    def begin(self, method: str, deadline: Patience = None, **fields: Any) -> api.Pending:
        """Send a call without waiting for its answer: ``result(deadline)`` does."""
        request = self._api.methods(AGENT)[method].request(**fields)
        return self._agent.begin(method, request, deadline=self._limit(deadline))

    def _limit(self, deadline: Patience) -> Deadline:
        return Deadline.of(self.endpoint.timeout if deadline is None else deadline)

    # --- Health

    def check(self, deadline: Patience = None) -> str:
        """Return the agent's state, ``SERVING`` if all is well."""
        answer = self._health.call("Check", deadline=self._limit(deadline))
        return str(type(answer).ServingStatus.Name(answer.status))

    def version(self, deadline: Patience = None) -> str:
        """Return the agent's version."""
        return str(self._health.call("Version", deadline=self._limit(deadline)).agent_version)

    @property
    def behaviour(self) -> Behaviour:
        """How an agent of this version behaves."""
        if self._behaviour is None:
            self._behaviour = behaviour_of(self.version())
        return self._behaviour

    # --- Containers

    def create(
        self,
        argv: list[str],
        *,
        name: str | None = None,
        storages: Sequence[Mapping[str, Any]] = (),
        deadline: Patience = None,
        **options: Any,
    ) -> Container:
        """Create a container.

        Args:
            argv: What its first process runs.
            name: Its ID; one that nobody has if ``None``.
            storages: Fields of ``grpc.Storage`` messages: what the agent is to mount for it.
            deadline: When to give up.
            **options: See :func:`kvtest.runtime.agent_spec.specification`.
        """
        name = f"kvtest-{secrets.token_hex(4)}" if name is None else name
        options.setdefault("root", self.endpoint.container_root)
        self.endpoint.created.add(name)
        spec = specification(name, argv, **options)
        self.call("CreateContainer", deadline, container_id=name, exec_id=name, OCI=spec, storages=storages)
        return Container(self, name)

    def run(self, argv: list[str], *, name: str | None = None, deadline: Patience = None, **options: Any) -> Container:
        """Create a container and start it; see :meth:`create`."""
        limit = self._limit(deadline)
        container = self.create(argv, name=name, deadline=limit, **options)
        container.start(limit)
        return container

    def container(self, name: str) -> Container:
        """Return a container that somebody has created."""
        return Container(self, name)

    def copy_file(
        self, path: str, data: bytes, mode: int = 0o100644, piece: int = 1 << 20, owner: tuple[int, int] = (0, 0)
    ) -> None:
        """Copy a file into the guest, in pieces.

        Args:
            path: Where to; below the agent's own directory.
            data: Its contents.
            mode: Its type and permissions.
            piece: Bytes per call; the Go runtime sends 1 MiB.
            owner: Its user and group.
        """
        for offset in range(0, max(1, len(data)), piece):
            self.call(
                "CopyFile",
                path=path,
                file_size=len(data),
                file_mode=mode,
                dir_mode=0o755,
                uid=owner[0],
                gid=owner[1],
                offset=offset,
                data=data[offset : offset + piece],
            )

    # --- End

    @property
    def lost(self) -> str | None:
        """Why the connection ended, or ``None`` while it lasts."""
        return self.client.lost

    def close(self) -> None:
        """End the connection; calls under way fail."""
        self.client.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
