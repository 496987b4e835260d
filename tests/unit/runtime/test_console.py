# SPDX-License-Identifier: Apache-2.0
"""The debug console of a pod, whose guest is a process of this machine and whose agent is this one."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import attrs
import pytest

from kvtest.errors import DeadlineExceededError, NotOfferedError, StateError, TransportError
from kvtest.runtime.console import Console
from kvtest.runtime.profile import DebugConsole, Profile, VirtualMachine, load

POD = "kvtest-console-of-one"
PATIENCE = 5.0


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[Profile]:
    """A runtime whose virtual machine is a process that names a directory in its command line."""
    console = DebugConsole("unix://{directory}/console", "at=(?P<directory>[^ ]+)", power_off="exit")
    machine = VirtualMachine(f"*machine-of-{{pod}} at={tmp_path}*", console)
    command = [sys.executable, "-c", "print(flush=True); input()", f"machine-of-{POD}", f"at={tmp_path}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield attrs.evolve(load("reference"), vm=machine)
        process.communicate(b"\n")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Queue[int]]:
    """A shell for one client; its exit status when it has ended."""
    statuses: Queue[int] = Queue()

    def serve(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client:
            fd = client.fileno()
            status = subprocess.run(["sh"], stdin=fd, stdout=fd, stderr=fd, check=False).returncode
        statuses.put(status)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield statuses
        thread.join(PATIENCE)


def with_console(profile: Profile, **changes: str) -> Profile:
    assert profile.vm is not None
    assert profile.vm.console is not None
    console = attrs.evolve(profile.vm.console, **changes)
    return attrs.evolve(profile, vm=attrs.evolve(profile.vm, console=console))


def test_the_agent_is_whose_child_the_shell_is(profile: Profile, shell: Queue[int]) -> None:
    got = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: got.set())
    try:
        with Console(profile, POD, PATIENCE) as console:
            console.signal_agent(signal.SIGUSR1)
            assert got.wait(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_the_profile_says_is_typed(profile: Profile, shell: Queue[int]) -> None:
    with Console(with_console(profile, panic="exit 6"), POD, PATIENCE) as console:
        console.panic()
        assert shell.get(timeout=PATIENCE) == 6
        with pytest.raises(TransportError, match="the debug console broke"):
            console.power_off()


def test_a_console_that_has_to_be_asked_for_is_not_offered(profile: Profile) -> None:
    with pytest.raises(NotOfferedError, match="does not answer") as caught:
        Console(with_console(profile, cure="console = true"), POD, 0.1)
    assert caught.value.hint == "console = true"


def test_any_other_has_to_be_there(profile: Profile) -> None:
    with pytest.raises(DeadlineExceededError):
        Console(profile, POD, 0.1)


def test_a_machine_that_is_not_as_the_profile_says_is_shown(profile: Profile) -> None:
    with pytest.raises(StateError, match=f"'cid=' of virtual machines, and this one is .*{POD}"):
        Console(with_console(profile, found="cid=", address="unix:///x"), POD, PATIENCE)


def test_a_pod_without_a_machine_has_no_console(profile: Profile) -> None:
    with pytest.raises(StateError, match="the pod kvtest-none has 0 virtual machines"):
        Console(profile, "kvtest-none", PATIENCE)
    with pytest.raises(StateError, match="runc has no debug console"):
        Console(load("runc"), POD, PATIENCE)
