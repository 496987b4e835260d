# SPDX-License-Identifier: Apache-2.0
"""How much memory there is, by the machine and by cgroups of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvtest.errors import HostError
from kvtest.host.memory import available_memory, require_memory

GIB = 1 << 30
V1 = "35 31 0:32 {mounted} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
CPU = "36 31 0:33 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
V2 = "41 31 0:38 {mounted} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
UNLIMITED = 9223372036854771712  # PAGE_COUNTER_MAX, as memory.limit_in_bytes has it


class Machine:
    """What files say of a machine with 8 GiB of available memory.

    Args:
        root: The directory that they are below.
        cgroup: Our ``/proc/self/cgroup``.
        mounts: Our ``/proc/self/mountinfo``.
    """

    def __init__(self, root: Path, cgroup: str, mounts: str) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemTotal: {16 << 20} kB\nMemAvailable: {8 << 20} kB\n")
        self.write("proc/self/cgroup", cgroup)
        self.write("proc/self/mountinfo", f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n{mounts}")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def v1(self, path: str, limit: int, usage: int, files: int = 0) -> None:
        """Describe a cgroup of version 1; ``files`` is how many bytes it has of files in memory."""
        directory = f"sys/fs/cgroup/memory{path}"
        self.write(f"{directory}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"{directory}/memory.usage_in_bytes", f"{usage}\n")
        own = f"cache {files}\nactive_file 0\ninactive_file 0\n"
        self.write(
            f"{directory}/memory.stat", f"{own}total_active_file {files // 4}\ntotal_inactive_file {files // 2}\n"
        )

    def v2(self, path: str, limit: int | str, usage: int, files: int = 0) -> None:
        """Describe a cgroup of version 2."""
        directory = f"sys/fs/cgroup{path}"
        self.write(f"{directory}/memory.max", f"{limit}\n")
        self.write(f"{directory}/memory.current", f"{usage}\n")
        self.write(f"{directory}/memory.stat", f"anon 1\nactive_file {files // 4}\ninactive_file {files // 2}\n")

    @property
    def available(self) -> int:
        return available_memory(self.root)


def test_too_little_memory_is_told() -> None:
    require_memory(1, "a lab host")
    more = (available_memory() >> 20) * 2
    with pytest.raises(HostError, match=rf"a lab host takes {more} MiB of memory, and \d+ MiB are available"):
        require_memory(more, "a lab host")


def test_a_kernel_without_cgroups(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 1024 kB\n")
    assert available_memory(tmp_path) == 1 << 20


def test_limits_of_version_2(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "0::/user.slice/job\n", V2.format(mounted="/"))
    assert machine.available == 8 * GIB  # nothing limits us, nor does the root, which has no such files
    machine.v2("/user.slice/job", "max", 5 * GIB)
    assert machine.available == 8 * GIB
    machine.v2("/user.slice/job", 4 * GIB, 1 * GIB)
    assert machine.available == 3 * GIB
    machine.v2("/user.slice", 2 * GIB, 1 * GIB)  # an ancestor's
    assert machine.available == 1 * GIB
    machine.v2("/user.slice", 2 * GIB, 2 * GIB, files=1 * GIB)  # what it has of files can be given up
    assert machine.available == 3 * GIB // 4
    machine.v2("/user.slice", 1 * GIB, 2 * GIB)  # lowered, and not yet given back
    assert machine.available == 0
    machine.v2("/user.slice", 2 * GIB, 1 * GIB)
    (tmp_path / "sys/fs/cgroup/user.slice/memory.stat").unlink()
    assert machine.available == 1 * GIB
    machine.v2("/user.slice/other", 1, 1)  # not ours
    machine.v2("/user.slice", 16 * GIB, 1 * GIB)  # more than there is
    machine.v2("/user.slice/job", 16 * GIB, 1 * GIB)
    assert machine.available == 8 * GIB
    machine.v2("/user.slice", 2 * GIB, 1 * GIB)
    with pytest.raises(HostError, match="takes 3072 MiB of memory, and 1024 MiB are available"):
        require_memory(3072, "a lab host", tmp_path)


def test_limits_of_version_1(tmp_path: Path) -> None:
    cgroup = "5:cpu,cpuacct:/elsewhere\n4:memory:/docker/abc\n1:name=systemd:/\n0::/\n"
    machine = Machine(tmp_path, cgroup, CPU + V1.format(mounted="/") + V2.format(mounted="/"))
    machine.v1("", UNLIMITED, 3 * GIB)
    machine.v1("/docker", UNLIMITED, 2 * GIB)
    machine.v1("/docker/abc", UNLIMITED, 1 * GIB)
    assert machine.available == 8 * GIB
    machine.v1("/docker/abc", 2 * GIB, 1 * GIB)
    assert machine.available == 1 * GIB
    machine.v1("/docker/abc", 2 * GIB, 2 * GIB, files=1 * GIB)
    assert machine.available == 3 * GIB // 4
    machine.v1("/docker", GIB, GIB // 2)
    assert machine.available == GIB // 2


@pytest.mark.parametrize("mounted", ["/docker/abc", "/"])
def test_a_container_whose_own_cgroup_is_what_is_mounted(tmp_path: Path, mounted: str) -> None:
    # Its path is the host's without a cgroup namespace, and the root in one.
    machine = Machine(tmp_path, f"0::{mounted}\n", V2.format(mounted=mounted))
    machine.v2("", 2 * GIB, 1 * GIB)
    assert machine.available == 1 * GIB


@pytest.mark.parametrize("path", ["/../other", "/docker/abc"])
def test_a_cgroup_outside_of_what_is_mounted(tmp_path: Path, path: str) -> None:
    machine = Machine(tmp_path, f"0::{path}\n", V2.format(mounted="/kubepods/x"))
    machine.v2("", 2 * GIB, 1 * GIB)
    assert machine.available == 1 * GIB
