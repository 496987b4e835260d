# SPDX-License-Identifier: Apache-2.0
"""What a container uses and may use: limits that are changed, and what is told of one that comes to its limit."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from kvtest import Container, Pod, requirement
from kvtest.runtime.spec import memory_limit

PATIENCE = 10.0
FOREVER = ["sleep", "1000"]
MIB = 1 << 20
UNLIMITED = 1 << 62  # near what version 1 of control groups says where memory has no limit

pytestmark = pytest.mark.capability("runtime")


@requirement("RUNTIME-STATS-001")
@pytest.mark.capability("runtime-stats")
def test_what_a_container_uses_is_told(shared_pod: Pod) -> None:
    """As it changes, and that of each container for itself."""
    idle = shared_pod.run(FOREVER)
    # dd has filled its memory when it writes, and writes no more than there is room for.
    holding = "dd if=/dev/zero bs=32M count=1 | { head -c 1 >/dev/null; echo held; exec sleep 1000; }"
    holder = shared_pod.run(["sh", "-c", holding])
    holder.stdout.read_until(b"held\n", PATIENCE)
    before = holder.usage()
    assert before.memory - idle.usage().memory > 20 * MIB
    for _ in range(5):
        holder.exec(FOREVER)
    after = holder.usage()
    assert after.processes == before.processes + 5
    assert after.cpu > before.cpu
    assert idle.usage().processes < before.processes


@requirement("RUNTIME-CONFIG-005", "RUNTIME-UPDATE-001")
@pytest.mark.capability("runtime-update")
def test_limits_are_changed_and_lifted(shared_pod: Pod) -> None:
    first = {"memory": {"limit": 80 * MIB}, "cpu": {"quota": 20_000, "period": 100_000}, "pids": {"limit": 30}}
    container = shared_pod.run(FOREVER, resources=first, configure=with_its_cgroup)
    assert limits_of(container) == [80 * MIB, 20_000, 30]
    limits = {"memory": {"limit": 64 * MIB}, "cpu": {"quota": 30_000, "period": 100_000}, "pids": {"limit": 40}}
    container.update(limits)
    assert limits_of(container) == [64 * MIB, 30_000, 40]
    container.update({"memory": {"limit": 48 * MIB}})
    assert limits_of(container) == [48 * MIB, 30_000, 40]
    container.update({"memory": {"limit": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}})
    assert limits_of(container) == [None] * 3


def with_its_cgroup(specification: dict[str, Any]) -> None:
    """Let a container see its own cgroup, as those of Kubernetes do."""
    specification["linux"]["namespaces"].append({"type": "cgroup"})
    specification["mounts"] += [
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
    ]


# What is in its directory may be a container's own cgroup, or the top of all. Each line is a limit, or empty.
LIMITS = """
cd /sys/fs/cgroup
own() { sed -n -E "s/^[0-9]+:$1://p" /proc/self/cgroup; }
show() { for file; do test ! -f "$file" || { head -n 1 "$file"; return; }; done; echo; }
all=.$(own)
show "$all/memory.max" memory.max "memory$(own memory)/memory.limit_in_bytes" memory/memory.limit_in_bytes
show "$all/cpu.max" cpu.max "cpu$(own '([^:]*,)?cpu(,[^:]*)?')/cpu.cfs_quota_us" cpu/cpu.cfs_quota_us
show "$all/pids.max" pids.max "pids$(own pids)/pids.max" pids/pids.max
cat /proc/self/cgroup
"""


def limits_of(container: Container) -> list[int | None]:
    """Return what the kernel says of the limits of memory, CPU and processes; ``None`` where there is none."""
    found = container.output_of(["sh", "-c", LIMITS]).decode().splitlines()
    kinds = ("memory", "CPU", "processes")
    missing = [kind for kind, line in zip(kinds, found, strict=False) if not line]
    assert not missing, f"no file of the limit of {missing}, neither in /sys/fs/cgroup nor below it as in {found[3:]}"
    words = [line.split()[0] for line in found[:3]]
    limits = [-1 if word == "max" else int(word) for word in words]
    return [limit if 0 < limit < UNLIMITED else None for limit in limits]


@requirement("RUNTIME-UPDATE-001")
@pytest.mark.capability("runtime-update")
def test_a_limit_can_be_changed_while_a_container_runs(shared_pod: Pod) -> None:
    container = shared_pod.run(["sh", "-c", "read line; for i in 1 2 3; do sleep 1000 & done; echo all"], stdin=True)
    container.update({"pids": {"limit": 2}})
    container.stdin.write(b"\n", PATIENCE)
    assert container.wait(PATIENCE).status != 0
    assert container.stdout.read_all(PATIENCE) == b""
    assert b"fork" in container.stderr.read_all(PATIENCE)


@requirement("RUNTIME-OOM-001")
@pytest.mark.capability("runtime-oom")
def test_a_container_that_runs_out_of_memory_is_told_of(shared_pod: Pod) -> None:
    # Not before the start has been answered: a shim may begin to watch only then.
    hog = ["sh", "-c", "read line; exec dd if=/dev/zero of=/dev/null bs=64M"]
    container = shared_pod.run(hog, stdin=True, resources=memory_limit(32 << 20))
    container.stdin.write(b"\n", PATIENCE)
    assert container.wait(PATIENCE).status == 128 + signal.SIGKILL
    shared_pod.events.expect("TaskOOM", container.id, within=shared_pod.profile.detection_bound)
