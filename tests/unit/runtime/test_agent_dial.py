# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import fcntl
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvtest.deadline import Deadline
from kvtest.errors import ConnectionLostError, DeadlineExceededError, HostError, RPCError, TransportError
from kvtest.rpc import api
from kvtest.rpc.server import Connection, Services
from kvtest.runtime import agent_dial
from kvtest.runtime.agent import AGENT, HEALTH, AgentEndpoint
from kvtest.runtime.agent_address import HybridAddress, UnixAddress, VsockAddress
from kvtest.runtime.agent_dial import dial
from kvtest.runtime.preflight import try_agent
from kvtest.settings.sources import load
from kvtest.vsock import reservation

SPOKEN = api.load("agent-2.1")


def serve(listener: socket.socket, services: Services) -> None:
    """Serve clients, one after the other, until the listener is closed."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            connection = Connection(services, client.sendall)
            while data := client.recv(4096):
                connection.feed(data)


@pytest.fixture
def agent_at(tmp_path: Path) -> Iterator[str]:
    """The address of an agent of version 3.2.0 that knows no container."""
    version = SPOKEN.message("grpc.VersionCheckResponse")(agent_version="3.2.0").SerializeToString()

    def refuse(_call: object) -> bytes:
        raise RPCError(3, "no such container")

    def refuse_without_a_word(_call: object) -> bytes:
        raise RPCError(12, "")

    services: Services = {
        HEALTH: {"Version": lambda _call: version, "Check": refuse_without_a_word},
        AGENT: {"StatsContainer": refuse, "WaitProcess": lambda _call: None},
    }
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "agent"))
        listener.listen()
        threading.Thread(target=serve, args=(listener, services), daemon=True).start()
        yield f"unix://{tmp_path}/agent"
        listener.shutdown(socket.SHUT_RDWR)


def test_the_version_decides_what_is_spoken(agent_at: str) -> None:
    endpoint = AgentEndpoint.of(agent_at, 5.0).in_its_version()
    assert endpoint.api == "agent-2.1"
    with endpoint.connect() as agent:
        assert agent.version() == "3.2.0"
        assert (agent.behaviour.signalled, agent.behaviour.copy_prefix) == (0, "/run/kata-containers")


def test_a_refusal_has_the_agents_code_and_text(agent_at: str) -> None:
    with AgentEndpoint.of(agent_at, 5.0).connect() as agent:
        with pytest.raises(RPCError, match="StatsContainer: INVALID_ARGUMENT: no such container") as refused:
            agent.container("nobody").statistics()
        assert refused.value.code == 3


def test_what_answers_with_a_bare_status_is_not_said_to_be_silent(agent_at: str) -> None:
    settings = load({"agent_address": agent_at}, {}, {}, Path("/")).settings
    with pytest.raises(HostError, match=r"does not say how it is: .*: Check: UNIMPLEMENTED, with no more words"):
        try_agent(settings)


def test_a_call_that_is_not_answered_ends_at_its_deadline_and_with_the_connection(agent_at: str) -> None:
    agent = AgentEndpoint.of(agent_at, 5.0).connect()
    with pytest.raises(DeadlineExceededError, match=r"the answer to agent at unix://.*: WaitProcess"):
        agent.container("one").wait(0.05)
    pending = agent.container("one").begin("WaitProcess")
    agent.close()
    with pytest.raises(ConnectionLostError):
        pending.result(5.0)


def test_an_abstract_name_is_dialled() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0kvtest-dial-test")
        listener.listen()
        dial(UnixAddress("@kvtest-dial-test"), 5.0).close()


def test_dialling_goes_on_until_somebody_listens(tmp_path: Path) -> None:
    path = tmp_path / "late"
    tried = threading.Event()

    def connect(address: object, deadline: object) -> socket.socket:
        try:
            return original(UnixAddress(str(path)), Deadline(5.0))
        finally:
            tried.set()

    original = agent_dial._connect
    with pytest.MonkeyPatch.context() as patch, socket.socket(socket.AF_UNIX) as listener:
        patch.setattr(agent_dial, "_connect", connect)
        got: list[socket.socket] = []
        dialler = threading.Thread(target=lambda: got.append(dial(UnixAddress(str(path)), 10.0)))
        dialler.start()
        assert tried.wait(5.0)  # in vain
        listener.bind(str(path))
        listener.listen()
        dialler.join(10.0)
        got[0].close()


def test_dialling_gives_up_with_what_it_saw(tmp_path: Path) -> None:
    with pytest.raises(DeadlineExceededError, match="to take a connection; last seen: No such file or directory"):
        dial(UnixAddress(str(tmp_path / "nobody")), 0.05)


def test_a_vsock_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(DeadlineExceededError, match=rf"last seen: there is no {tmp_path}/vsock: the guest is gone"):
        dial(HybridAddress(str(tmp_path / "vsock"), 1024), 0.05)


def test_dialling_can_be_cancelled(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(TransportError, match="was cancelled"):
        dial(UnixAddress(str(tmp_path / "nobody")), None, cancelled)  # type: ignore[arg-type]


def test_what_can_never_be_connected_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TransportError, match=r"could not connect to the agent at unix://.*: Not a directory"):
        dial(UnixAddress(str(tmp_path / "file" / "below")), 10.0)


def test_no_vsock_socket_is_opened_without_a_reservation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reservation, "DEVICE", str(tmp_path / "vhost-vsock"))
    monkeypatch.setattr(socket, "socket", lambda *_arguments: pytest.fail("a socket was opened"))
    with pytest.raises(HostError, match="vhost-vsock does not open: No such file or directory") as refused:
        dial(VsockAddress(3, 1024), 10.0)
    assert "modprobe vhost_vsock" in (refused.value.hint or "")


def test_a_cid_that_nobody_holds_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "vhost-vsock").touch()
    monkeypatch.setattr(reservation, "DEVICE", str(tmp_path / "vhost-vsock"))
    monkeypatch.setattr(fcntl, "ioctl", lambda *_arguments: 0)  # the CID could be taken: nobody had it
    monkeypatch.setattr(socket, "socket", lambda *_arguments: pytest.fail("a socket was opened"))
    with pytest.raises(HostError, match="no guest of this machine has the CID 3"):
        AgentEndpoint.of("vsock://3:1024")
    with pytest.raises(DeadlineExceededError, match="refused the connection: the guest is gone"):
        dial(VsockAddress(3, 1024), 0.05)
