# SPDX-License-Identifier: Apache-2.0
"""What a container uses and may use; files that are copied into the guest."""

from __future__ import annotations

import hashlib
import os

import pytest

from kvtest import Deadline, Guest, requirement
from kvtest.errors import DeadlineExceededError, RPCError
from kvtest.peers import pattern
from kvtest.runtime.agent import Agent, AgentEndpoint
from kvtest.runtime.agent_container import Container
from kvtest.runtime.agent_root import provide_root

pytestmark = pytest.mark.guest(image="agent", scope="module", vsock=True, serial_ports=["agent.channel.0"])

MIB = 1 << 20
LIMITS = ("memory.max", "pids.max", "cpu.max", "cpu.weight")
COUNTING = "i=0; while :; do i=$((i+1)); echo $i; done"
# The root of a mount in its file system, and the kind of that (proc_pid_mountinfo(5)).
WHAT_IS_AT_DATA = (
    "while read -r _ _ _ root point rest; do "
    'if [ "$point" = /data ]; then set -- ${rest#* - }; echo "$root $1"; fi; done </proc/self/mountinfo'
)
SILENCE = 0.5  # seconds, of the requirement
BOUND = 10.0
PATIENCE = 30.0


def read_while_it_writes(container: Container) -> None:
    """Read until nothing comes for a while, which raises: what it wrote before its pause is in the pipe."""
    limit = Deadline(BOUND)
    while not limit.expired:
        container.begin("ReadStdout", len=1 << 16).result(SILENCE)
    pytest.fail("it goes on writing")


def running(words: str) -> list[int]:
    """Return the processes whose command line holds some words; runs in the guest."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as stream:
                if words in stream.read().decode(errors="replace").replace("\0", " "):
                    found.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@requirement("AGENT-STATS-001")
def test_statistics_count_memory_processes_and_time(agent: Agent) -> None:
    container = agent.run(["sh", "-c", "x=$(yes | head -c 4000000); echo full; cat; true"], memory=64 * MIB)
    container.read_until(b"full\n")
    statistics = container.statistics().cgroup_stats
    assert statistics.memory_stats.usage.limit == 64 * MIB
    assert 4_000_000 <= statistics.memory_stats.usage.usage <= 64 * MIB
    assert statistics.pids_stats.current == 2  # the shell and cat
    assert statistics.cpu_stats.cpu_usage.total_usage > 0


@requirement("AGENT-STATS-002")
def test_statistics_are_those_of_the_container(agent: Agent) -> None:
    one = agent.run(["sleep", "1000"])
    other = agent.run(["sh", "-c", "for i in 1 2 3; do sleep 1000 & done; echo ready; wait"])
    other.read_until(b"ready\n")
    counts = [container.statistics().cgroup_stats.pids_stats.current for container in (one, other)]
    assert counts == [1, 4]


@requirement("AGENT-PAUSE-001")
def test_a_paused_container_stands_still_until_it_is_resumed(agent: Agent) -> None:
    container = agent.run(["sh", "-c", COUNTING])
    container.read_until(b"\n")
    container.pause()
    before = container.statistics().cgroup_stats.cpu_stats.cpu_usage.total_usage
    with pytest.raises(DeadlineExceededError):
        read_while_it_writes(container)
    assert container.statistics().cgroup_stats.cpu_stats.cpu_usage.total_usage == before
    container.resume()
    container.read_until(b"\n")


@requirement("AGENT-PAUSE-002")
def test_a_paused_container_can_be_removed(agent: Agent) -> None:
    container = agent.run(["sleep", "1000"])
    container.pause()
    container.remove()
    with pytest.raises(RPCError):
        container.statistics()


@requirement("AGENT-UPDATE-001")
def test_an_update_changes_the_limits(agent: Agent) -> None:
    container = agent.run(["sleep", "1000"], memory=64 * MIB, pids=20)
    container.update(Memory={"Limit": 32 * MIB}, Pids={"Limit": 10})
    statistics = container.statistics().cgroup_stats
    assert (statistics.memory_stats.usage.limit, statistics.pids_stats.limit) == (32 * MIB, 10)


def limits(guest: Guest, container: Container) -> list[str]:
    """Return the limits of a container as the kernel has them: of memory, processes, processor time; and its weight."""
    group = f"/sys/fs/cgroup/kvtest/{container.name}"
    return [guest.read_file(f"{group}/{name}").decode().strip() for name in LIMITS]


@requirement("AGENT-LIMIT-001", "AGENT-LIMIT-002")
def test_limits_are_those_that_were_asked_for(guest: Guest, agent: Agent) -> None:
    cpu = {"Quota": 50_000, "Period": 100_000, "Shares": 512}
    container = agent.run(["sleep", "1000"], memory=64 * MIB, pids=20, cpu=cpu)
    *created, weight = limits(guest, container)
    assert created == [f"{64 * MIB}", "20", "50000 100000"]
    assert int(weight) < 100  # that of 1024 shares, or more
    container.update(CPU={"Quota": 20_000, "Period": 50_000, "Shares": 4096}, Memory={"Limit": 32 * MIB})
    *updated, more = limits(guest, container)
    assert updated == [f"{32 * MIB}", "20", "20000 50000"]
    assert int(more) > int(weight)


@requirement("AGENT-OOM-001")
def test_a_container_that_runs_out_of_memory_is_told_of(agent: Agent) -> None:
    told = agent.begin("GetOOMEvent")
    container = agent.run(["tail", "/dev/zero"], memory=8 * MIB)
    assert container.wait() == agent.behaviour.signalled + 9
    assert told.result(PATIENCE).container_id == container.name


@requirement("AGENT-OOM-002")
def test_an_event_is_told_to_one_client(agent: Agent, endpoint: AgentEndpoint) -> None:
    with endpoint.connect() as other:
        pending = [agent.begin("GetOOMEvent"), other.begin("GetOOMEvent")]
        names = [agent.run(["tail", "/dev/zero"], memory=8 * MIB).name for _ in range(2)]
        assert sorted(call.result(PATIENCE).container_id for call in pending) == sorted(names)


@requirement("AGENT-COPY-001", "AGENT-COPY-003")
@pytest.mark.parametrize("size", [0, 10, 3 * MIB + 1])
def test_a_copied_file_is_whole(guest: Guest, agent: Agent, size: int) -> None:
    path, data = f"{agent.behaviour.copy_prefix}/some/{size}", pattern(3, size)
    agent.copy_file(path, data, mode=0o100640, owner=(1000, 1001))
    seen = guest.run(["sh", "-c", f"stat -c %a:%u:%g:%s {path}; sha256sum <{path}"]).check().text.split()
    assert seen[:2] == [f"640:1000:1001:{size}", hashlib.sha256(data).hexdigest()]


@requirement("AGENT-COPY-002")
@pytest.mark.parametrize("path", ["/etc/kvtest-intruder", "{prefix}/../../../etc/kvtest-intruder", "relative"])
def test_a_file_is_copied_nowhere_else(guest: Guest, agent: Agent, path: str) -> None:
    with pytest.raises(RPCError):
        agent.copy_file(path.format(prefix=agent.behaviour.copy_prefix), b"intruder")
    assert guest.run(["find", "/", "-xdev", "-name", "kvtest-intruder*"]).text == ""


@requirement("AGENT-STORAGE-002")
def test_a_storage_is_mounted_for_its_container(agent: Agent) -> None:
    point = "/run/kvtest-storage"
    container = agent.run(
        ["sh", "-c", f"{WHAT_IS_AT_DATA}; echo kept >/data/file; cat /data/file"],
        storages=[{"driver": "ephemeral", "source": "tmpfs", "fstype": "tmpfs", "mount_point": point}],
        mounts=[{"destination": "/data", "source": point, "type": "bind", "options": ["rbind", "rw"]}],
        read_only=False,
    )
    assert container.read_all() == b"/ tmpfs\nkept\n"


@requirement("AGENT-SANDBOX-002")
@pytest.mark.guest(fresh=True)
def test_the_sandbox_has_its_host_name(agent: Agent, endpoint: AgentEndpoint) -> None:
    agent.call("CreateSandbox", hostname="pod-7", sandbox_id="pod-7")
    if endpoint.container_root.startswith(agent.behaviour.copy_prefix):
        provide_root(endpoint)  # a new sandbox begins without what was copied
    assert agent.run(["hostname"]).read_all() == b"pod-7\n"


@requirement("AGENT-DESTROY-001")
@pytest.mark.guest(fresh=True)
def test_the_end_of_the_sandbox_ends_all_containers(guest: Guest, agent: Agent) -> None:
    containers = [agent.run(["sleep", "31415"]) for _ in range(2)]
    assert len(guest.call(running, "sleep 31415")) == 2
    waiting = [container.begin("WaitProcess") for container in containers]
    agent.call("DestroySandbox")
    assert [call.result(PATIENCE).status for call in waiting] == [agent.behaviour.signalled + 9] * 2
    assert guest.call(running, "sleep 31415") == []
    agent.endpoint.created.clear()
