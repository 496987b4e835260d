# SPDX-License-Identifier: Apache-2.0
"""A container's life, and what an agent says of itself."""

from __future__ import annotations

import os
from typing import Any

import pytest

from kvtest import Guest, requirement
from kvtest.errors import ConnectionLostError, RPCError
from kvtest.runtime.agent import Agent
from kvtest.runtime.agent_spec import WRITABLE_OVERLAY
from kvtest.transport import Transport

PATIENCE = 30.0
# Containers share the network of their guest: one sees there whether another's processes are alive.
IN_SIGHT = "cat /proc/net/tcp* | busybox grep -q ':6A1F 0*:0000 0A '"
LISTENING = f"busybox nc -l -p {0x6A1F} >/dev/null & until {IN_SIGHT}; do :; done; echo listening; wait"
BOTH = [Transport.VHOST_USER_VSOCK, Transport.VIRTIO_SERIAL]

pytestmark = pytest.mark.guest(image="agent", scope="module", vsock=True, serial_ports=["agent.channel.0"])


@requirement("AGENT-HEALTH-001")
@pytest.mark.parametrize("endpoint", BOTH, ids=str, indirect=True)
def test_a_healthy_agent_says_that_it_serves(agent: Agent) -> None:
    assert agent.check() == "SERVING"


@requirement("AGENT-HEALTH-002")
def test_the_version_is_one(agent: Agent) -> None:
    major, minor, patch = agent.version().partition("-")[0].split(".")
    assert (int(major), int(minor)) >= (2, 1)
    assert patch.isdecimal()


@requirement("AGENT-DETAILS-001")
def test_the_details_hold_the_version(agent: Agent) -> None:
    details = agent.call("GetGuestDetails", mem_block_size=True, mem_hotplug_probe=False)
    assert details.agent_details.version == agent.version()


@requirement("AGENT-LIFE-001")
@pytest.mark.parametrize("endpoint", BOTH, ids=str, indirect=True)
def test_a_container_lives_and_goes(agent: Agent) -> None:
    container = agent.create(["sh", "-c", "echo here; exit 3"])
    container.start()
    assert container.read_all() == b"here\n"
    assert container.wait() == 3
    container.remove()
    with pytest.raises(RPCError):
        container.statistics()


@requirement("AGENT-LIFE-002")
def test_nothing_runs_before_the_start(agent: Agent) -> None:
    container = agent.create(["sh", "-c", "exit 5"])
    waiting = container.begin("WaitProcess")
    first = agent.run(["true"])
    assert first.wait() == 0  # the created one would have had as much time
    container.start()
    assert waiting.result(PATIENCE).status == 5


@requirement("AGENT-LIFE-003")
def test_a_container_starts_once(agent: Agent) -> None:
    container = agent.run(["cat"])
    with pytest.raises(RPCError):
        container.start()
    assert container.write(b"still here\n") == 11
    assert container.read_until(b"\n") == b"still here\n"


@requirement("AGENT-LIFE-004")
def test_an_id_is_free_again_after_the_removal(agent: Agent) -> None:
    statuses = []
    for status in (1, 2):
        container = agent.run(["sh", "-c", f"exit {status}"], name="again")
        statuses.append(container.wait())
        container.remove()
    assert statuses == [1, 2]


def everything() -> list[str]:
    """Return the mounts, cgroups, directories and files of a guest; runs in the guest."""
    with open("/proc/self/mountinfo", encoding="utf-8") as stream:
        found = [f"mount {line.split()[4]}" for line in stream]
    for top in ("/", "/run", "/tmp", "/sys/fs/cgroup"):
        device = os.lstat(top).st_dev
        for directory, names, files in os.walk(top):
            found += [f"{directory}/{name}" for name in (*names, *files)]
            names[:] = [name for name in names if os.lstat(f"{directory}/{name}").st_dev == device]
    return found


def assert_no_more(guest: Guest, before: list[str], by: str) -> None:
    left = {*guest.call(everything)} - {*before}
    outermost = sorted(path for path in left if os.path.dirname(path) not in left)
    assert not outermost, f"left by {by}: {', '.join(outermost)}"


def writable(agent: Agent, name: str) -> dict[str, Any]:
    """Return the options of a container with a root that it can write to, and a directory in memory."""
    if not agent.behaviour.overlays:
        pytest.skip(f"an agent of version {agent.version()} makes no overlay that a container can write to")
    root = f"/run/kvtest-root-{name}"
    lower = f"lowerdir={agent.endpoint.container_root}"
    overlay = {"driver": "overlayfs", "source": "overlay", "fstype": "overlay", "options": [lower, WRITABLE_OVERLAY]}
    return {
        "name": name,
        "root": root,
        "read_only": False,
        "storages": [{**overlay, "mount_point": root}],
        "mounts": [{"destination": "/tmp/data", "source": "tmpfs", "type": "tmpfs"}],
    }


@requirement("AGENT-REMOVE-001")
def test_a_container_that_is_gone_leaves_nothing(guest: Guest, agent: Agent) -> None:
    write = "mkdir -p /deep/down; echo left >/deep/down/file; echo left >/tmp/data/file; echo written; cat"
    before: list[str] = []
    for name in ("first", "leaves"):  # what an agent needs once, it may keep
        before = guest.call(everything)
        container = agent.run(["sh", "-c", write], **writable(agent, name))
        container.read_until(b"written\n")
        process = container.execute("more", ["sh", "-c", "echo left >/more"], terminal=(24, 80))
        assert process.wait() == 0
        container.remove()
    assert_no_more(guest, before, "one that was removed")
    with pytest.raises(RPCError):
        agent.run(["/no/such/program"], **writable(agent, "fails"))
    agent.endpoint.remove_all()
    assert_no_more(guest, before, "one that could not run")


@requirement("AGENT-REMOVE-002")
def test_a_container_sees_no_files_of_one_of_its_id_before(agent: Agent) -> None:
    seen = []
    for _ in range(2):
        script = "cat /file /tmp/data/file; echo former >/file; echo former >/tmp/data/file"
        container = agent.run(["sh", "-c", f"{script}; echo written"], **writable(agent, "former"))
        seen.append(container.read_all())
        container.remove()
    assert seen == [b"written\n"] * 2


@requirement("AGENT-LIFE-005")
def test_an_id_in_use_is_refused(agent: Agent) -> None:
    container = agent.run(["cat"])
    with pytest.raises(RPCError):
        agent.create(["true"], name=container.name)
    container.write(b"unharmed\n")
    assert container.read_until(b"\n") == b"unharmed\n"


@requirement("AGENT-LIFE-006")
def test_the_removal_of_a_running_container_ends_it(agent: Agent) -> None:
    container = agent.run(["sh", "-c", LISTENING])
    container.read_until(b"listening\n")
    waiting = container.begin("WaitProcess", 2 * PATIENCE)  # an answer that its time is up would be none
    container.remove()
    try:
        assert waiting.result(PATIENCE).status == agent.behaviour.signalled + 9
    except ConnectionLostError:
        raise
    except RPCError:
        pass  # an agent may have forgotten the container by the time that its process has ended
    witness = agent.run(["sh", "-c", f"while {IN_SIGHT}; do :; done"])  # of what listens, to whatever container it is
    assert witness.wait(PATIENCE) == 0


@requirement("AGENT-LIFE-007")
def test_a_container_without_a_specification_is_refused(agent: Agent) -> None:
    with pytest.raises(RPCError):
        agent.call("CreateContainer", container_id="bare", exec_id="bare")
    with pytest.raises(RPCError):
        agent.container("bare").statistics()


@requirement("AGENT-LIFE-008")
def test_a_program_that_does_not_exist_is_refused(agent: Agent) -> None:
    with pytest.raises(RPCError):
        agent.run(["/no/such/program"], name="vain")
    agent.endpoint.remove_all()
    assert agent.run(["true"], name="vain").wait() == 0


@requirement("AGENT-UNKNOWN-001")
@pytest.mark.parametrize(
    "method",
    [
        "StartContainer",
        "RemoveContainer",
        "ExecProcess",
        "SignalProcess",
        "WaitProcess",
        "UpdateContainer",
        "StatsContainer",
        "PauseContainer",
        "ResumeContainer",
        "WriteStdin",
        "ReadStdout",
        "ReadStderr",
        "CloseStdin",
        "TtyWinResize",
    ],
)
def test_a_call_for_no_container_is_refused(agent: Agent, method: str) -> None:
    with pytest.raises(RPCError) as refused:
        agent.call(method, container_id="nobody")
    assert refused.value.code not in (0, 12)  # OK, UNIMPLEMENTED
    assert agent.lost is None
