# SPDX-License-Identifier: Apache-2.0
"""Somebody else's agent, by the path of its program: it runs, or one message says why not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from kvtest.errors import BootError, KvtestError
from kvtest.harness import Guest, GuestFactory, GuestRequest
from kvtest.runtime.agent import AgentEndpoint
from kvtest.runtime.agent_address import HybridAddress
from kvtest.settings import Settings

OURS = """#!/usr/bin/python3 -ISu
import sys
sys.path.append("/usr/lib/python3/dist-packages")
from kvtest.guest.agent import service
service.VERSION = "4.0.7"
from kvtest.guest.agent.main import main
main()
"""

Boot = Callable[..., Guest]


@pytest.fixture
def boot_with(settings: Settings, tmp_path: Path) -> Iterator[Boot]:
    """Boot a guest with an agent."""
    guests: list[Guest] = []

    def boot(agent: Path | None, **request: object) -> Guest:
        factory = GuestFactory(attrs.evolve(settings, agent=agent), tmp_path / "guests")
        wanted = GuestRequest().updated({"image": "agent", "serial_ports": ["agent.channel.0"], **request})
        guests.append(factory.boot(factory.configuration(wanted)))
        return guests[-1]

    yield boot
    for guest in guests:
        guest.close()


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def failure(boot_with: Boot, agent: Path | None, **request: object) -> str:
    with pytest.raises(KvtestError) as refused:
        boot_with(agent, **request)
    assert isinstance(refused.value, BootError)
    return str(refused.value)


def test_a_program_runs_as_the_agent(boot_with: Boot, tmp_path: Path) -> None:
    guest = boot_with(program(tmp_path / "other agent ß", OURS))
    endpoint = AgentEndpoint(HybridAddress(str(guest.vm.hybrid_path), 1024)).in_its_version()
    with endpoint.connect() as agent:
        assert agent.version() == "4.0.7"
        assert agent.run(["sh", "-c", "exit 3"]).wait() == 3


def test_a_program_that_exits(boot_with: Boot, tmp_path: Path) -> None:
    path = program(tmp_path / "quitter", "#!/bin/sh\necho 'no config for me'\nexit 7\n")
    message = failure(boot_with, path)
    assert f"its init died: RuntimeError: {path} exited with status 7 before it listened on vsock port 1024" in message
    assert "| no config for me" in message


def test_a_program_with_libraries_of_this_machine_is_run_with_them(boot_with: Boot) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    message = failure(boot_with, Path(sleep))
    assert "exited with status 1 before it listened" in message
    assert "missing operand" in message  # its own words: it ran


def test_a_program_that_never_listens(boot_with: Boot, tmp_path: Path) -> None:
    path = program(tmp_path / "idler", "#!/bin/sh\necho 'thinking'\nexec sleep 1000\n")
    message = failure(boot_with, path)
    assert f"{path} did not listen on vsock port 1024 within " in message
    assert "| thinking" in message


def test_a_kernel_without_what_the_agent_needs(boot_with: Boot) -> None:
    message = failure(boot_with, None, kernel_arguments=["cgroup_disable=memory"])
    assert "this kernel has no cgroup controller memory, which the reference agent needs for containers" in message
