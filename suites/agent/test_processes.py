# SPDX-License-Identifier: Apache-2.0
"""Processes of a container: exit statuses, signals, exec, terminals."""

from __future__ import annotations

import signal

import pytest

from kvtest import requirement
from kvtest.errors import RPCError
from kvtest.runtime.agent import Agent

pytestmark = pytest.mark.guest(image="agent", scope="module", vsock=True, serial_ports=["agent.channel.0"])

AS_ASKED = ("colour", "directory", "Uid", "Gid", "Groups", "CapEff", "CapBnd", "NoNewPrivs", "oom")
LOOK = (
    "echo colour: $COLOUR; echo directory: $(pwd); echo oom: $(cat /proc/self/oom_score_adj); "
    "cat /proc/self/status /proc/self/limits; echo end"
)
# The settings of System V IPC are of the container's own namespace, and its user is the one who may change them.
CONFINED = """
echo host=$(hostname)
touch /new 2>/dev/null; echo touch=$?
echo file=$(cat /proc/version)
echo directory=$(ls /sys/kernel)
(echo 5000 >/proc/sys/kernel/msgmax) 2>/dev/null; echo write=$?
echo sysctl=$(cat /proc/sys/kernel/msgmax)
"""
TRAPPING = "trap 'echo caught; exit 42' TERM; echo ready; while :; do sleep 1000 & wait; done"


@requirement("AGENT-EXIT-001")
@pytest.mark.parametrize("status", [0, 1, 127, 255])
def test_the_exit_status_is_that_of_the_process(agent: Agent, status: int) -> None:
    assert agent.run(["sh", "-c", f"exit {status}"]).wait() == status


@requirement("AGENT-EXIT-002")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_the_exit_status_tells_the_signal(agent: Agent, number: signal.Signals) -> None:
    container = agent.run(["sleep", "1000"])
    process = container.execute("victim", ["sleep", "1000"])
    process.signal(number)
    assert process.wait() == agent.behaviour.signalled + number


@requirement("AGENT-SIGNAL-001")
def test_a_signal_reaches_the_handler(agent: Agent) -> None:
    container = agent.run(["sh", "-c", TRAPPING])
    assert container.read_until(b"ready\n") == b"ready\n"
    container.signal(signal.SIGTERM)
    assert container.read_all() == b"caught\n"  # before its status is told, with which an agent may forget it
    assert container.wait() == 42


@requirement("AGENT-SIGNAL-002")
def test_a_kill_of_the_first_process_ends_all(agent: Agent) -> None:
    container = agent.run(["sleep", "1000"])
    process = container.execute("other", ["sleep", "1000"])
    container.kill()
    killed = agent.behaviour.signalled + signal.SIGKILL
    assert [container.wait(), process.wait()] == [killed, killed]


@requirement("AGENT-SIGNAL-003")
def test_a_signal_for_one_process_spares_the_others(agent: Agent) -> None:
    container = agent.run(["cat"])
    process = container.execute("victim", ["sleep", "1000"])
    process.kill()
    assert process.wait() == agent.behaviour.signalled + signal.SIGKILL
    container.write(b"spared\n")
    assert container.read_until(b"\n") == b"spared\n"


@requirement("AGENT-SIGNAL-004")
def test_a_signal_for_no_process_is_refused(agent: Agent) -> None:
    container = agent.run(["cat"])
    with pytest.raises(RPCError):
        container.process("nobody").kill()
    container.write(b"spared\n")
    assert container.read_until(b"\n") == b"spared\n"


@requirement("AGENT-EXEC-001")
def test_an_exec_has_its_own_streams_and_status(agent: Agent) -> None:
    container = agent.run(["cat"])
    process = container.execute("own", ["sh", "-c", "read line; echo out $line; echo err $line >&2; exit 7"])
    process.write(b"mine\n")
    container.write(b"first\n")
    assert process.read_all("stdout") == b"out mine\n"
    assert process.read_all("stderr") == b"err mine\n"
    assert process.wait() == 7
    assert container.read_until(b"\n") == b"first\n"


@requirement("AGENT-EXEC-002")
def test_an_exec_runs_in_the_container(agent: Agent) -> None:
    container = agent.run(["sleep", "1000"])
    look = "hostname; cat /proc/1/comm; for kind in pid mnt uts ipc net; do readlink /proc/$1/ns/$kind; done"
    process = container.execute("inside", ["sh", "-c", look, "sh", "self"])
    of_first = container.execute("first", ["sh", "-c", look, "sh", "1"])
    seen = process.read_all()
    assert seen.startswith(f"{container.name}\nsleep\n".encode())
    assert seen == of_first.read_all()


@requirement("AGENT-EXEC-003")
def test_an_exec_of_no_program_is_refused(agent: Agent) -> None:
    container = agent.run(["cat"])
    with pytest.raises(RPCError):
        container.execute("vain", ["/no/such/program"])
    container.write(b"unharmed\n")
    assert container.read_until(b"\n") == b"unharmed\n"


def as_it_is(text: str) -> dict[str, str]:
    """Return what a process has told of itself by ``LOOK``, under names of the files that it is from."""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    limits = [line.split()[3:5] for line in text.splitlines() if line.startswith("Max open files")]
    lines["limits"] = " ".join(limits[0])
    return {name: " ".join(lines[name].split()) for name in (*AS_ASKED, "limits")}


@requirement("AGENT-EXEC-004", "AGENT-EXEC-005")
def test_a_process_is_as_it_was_asked_for(agent: Agent) -> None:
    container = agent.run(
        ["sh", "-c", f"{LOOK}; cat"],
        environment={"COLOUR": "blue"},
        directory="/tmp",
        user=1000,
        group=1001,
        groups=[1002, 1003],
        capabilities=["CAP_CHOWN", "CAP_KILL"],
        limits={"RLIMIT_NOFILE": (100, 200)},
        no_new_privileges=True,
        oom_score=500,
    )
    other = container.execute(
        "other",
        ["sh", "-c", f"read line; {LOOK}"],
        environment={"COLOUR": "red"},
        directory="/etc",
        groups=[7],
        capabilities=["CAP_CHOWN", "CAP_NET_RAW"],
        limits={"RLIMIT_NOFILE": (60, 70)},
        oom_score=600,
    )
    other.write(b"\n")
    assert as_it_is(container.read_until(b"end\n").decode()) == {
        "colour": "blue",
        "directory": "/tmp",
        "Uid": "1000 1000 1000 1000",
        "Gid": "1001 1001 1001 1001",
        "Groups": "1002 1003",
        "CapEff": "0" * 16,  # execve(2) takes them from a user that is not root
        "CapBnd": f"{1 << 0 | 1 << 5:016x}",
        "limits": "100 200",
        "NoNewPrivs": "1",
        "oom": "500",
    }
    assert as_it_is(other.read_all().decode()) == {
        "colour": "red",
        "directory": "/etc",
        "Uid": "0 0 0 0",
        "Gid": "0 0 0 0",
        "Groups": "7",
        "CapEff": f"{1 << 0 | 1 << 13:016x}",
        "CapBnd": f"{1 << 0 | 1 << 13:016x}",
        "limits": "60 70",
        "NoNewPrivs": "0",
        "oom": "600",
    }


@requirement("AGENT-ISOLATION-002")
def test_a_container_is_confined_as_it_was_asked_for(agent: Agent) -> None:
    container = agent.run(
        ["sh", "-c", CONFINED],
        read_only=True,
        linux={
            "MaskedPaths": ["/proc/version", "/sys/kernel"],
            "ReadonlyPaths": ["/proc/sys"],
            "Sysctl": {"kernel.msgmax": "4242"},
        },
    )
    assert dict(line.split("=", 1) for line in container.read_all().decode().splitlines()) == {
        "host": container.name,
        "touch": "1",
        "file": "",
        "directory": "",
        "write": "1",
        "sysctl": "4242",
    }


@requirement("AGENT-ISOLATION-001")
def test_containers_do_not_see_each_other(agent: Agent) -> None:
    one, other = agent.run(["sleep", "1001"]), agent.run(["sleep", "1002"])
    listings = [
        container.execute("look", ["sh", "-c", "hostname; cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"])
        for container in (one, other)
    ]
    seen = [listing.read_all() for listing in listings]
    assert [name in text for text in seen for name in (b"sleep 1001", b"sleep 1002")] == [True, False, False, True]
    assert [text.split(b"\n")[0].decode() for text in seen] == [one.name, other.name]


@requirement("AGENT-TTY-001")
def test_a_terminal_is_one(agent: Agent) -> None:
    container = agent.run(["sleep", "1000"])
    look = "for stream in 0 1 2; do test -t $stream; echo $?; done; stty size"  # it may have no name in the container
    process = container.execute("tty", ["sh", "-c", look], terminal=(33, 101))
    assert process.read_all().split(b"\r\n")[:4] == [b"0", b"0", b"0", b"33 101"]
    assert process.wait() == 0


@requirement("AGENT-TTY-002")
def test_a_terminal_can_be_resized(agent: Agent) -> None:
    container = agent.run(["sh", "-c", "echo ready; read line; stty size"], terminal=(24, 80))
    container.read_until(b"ready\r\n")
    container.resize(50, 132)
    container.write(b"\n")
    assert b"50 132\r\n" in container.read_all()


@requirement("AGENT-TTY-003")
def test_a_terminal_turns_a_character_into_a_signal(agent: Agent) -> None:
    container = agent.run(["sleep", "1000"])
    process = container.execute("tty", ["sh", "-c", "echo ready; cat"], terminal=(24, 80))
    process.read_until(b"ready\r\n")
    process.write(b"\x03")
    assert process.wait() in (130, agent.behaviour.signalled + signal.SIGINT)
