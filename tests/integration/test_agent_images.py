# SPDX-License-Identifier: Apache-2.0
"""Agents with nothing of ours beside them: as init of our image, and in guests that are somebody else's as a whole.

Somebody else's guest is made of our image, whose agent is its first process: its initrd, or a disk packed of that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from kvtest.errors import BootError, RecipeError
from kvtest.harness import GuestFactory, GuestRequest
from kvtest.harness.factory import AGENT_PORTS
from kvtest.image import Image, ImageCache, cpio
from kvtest.report import Outcome, Results
from kvtest.runtime.agent_machine import AgentMachine, AgentMachines
from kvtest.settings import Settings
from kvtest.start import AgentDisk, AgentStart
from kvtest.transport import Transport

OURS = """#!/usr/bin/python3 -ISu
import sys
sys.path.append("/usr/lib/python3/dist-packages")
from kvtest.guest.agent import service
service.VERSION = "4.0.7"
from kvtest.guest.agent.main import main
main()
"""
SECTOR = 512
FIRST_SECTOR = 2048

Boot = Callable[..., AgentMachine]


@pytest.fixture
def boot_with(settings: Settings, tmp_path: Path) -> Iterator[Boot]:
    """Boot a machine with the agent that some settings say."""
    with contextlib.ExitStack() as stack:

        def boot(**changed: Any) -> AgentMachine:
            agents = AgentMachines(GuestFactory(attrs.evolve(settings, **changed), tmp_path / "guests"))
            request = GuestRequest(image="agent", serial_ports=AGENT_PORTS)
            return stack.enter_context(agents.boot(agents.configuration(request, Transport.VHOST_USER_VSOCK)))

        yield boot


@pytest.fixture
def theirs(settings: Settings) -> Image:
    """A kernel and an initrd whose first process is an agent."""
    return ImageCache(settings.cache, settings.mirror).ensure(settings.kernel, "agent", start=AgentStart.INIT)


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def pack_disk(image: Image, directory: Path) -> Path:
    """Make a disk with one partition, which holds what an initrd does, as Kata's image builder does."""
    tree, archives, offset = directory / "tree", image.initramfs.read_bytes(), 0
    while offset < len(archives):
        offset = cpio.extract(archives, tree, offset)
    shutil.copy(tree / "init", tree / "usr/sbin/init")
    root, disk = directory / "root", directory / "disk"
    size = sum(path.lstat().st_size + 4096 for path in tree.rglob("*")) * 5 // 4
    mkfs = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert mkfs is not None
    subprocess.run([mkfs, "-q", "-F", "-d", str(tree), str(root), f"{size >> 10}K"], check=True)
    shutil.rmtree(tree)
    with disk.open("wb") as stream:
        entry = struct.pack("<B3xB3xII", 0, 0x83, FIRST_SECTOR, root.stat().st_size // SECTOR)
        stream.write(bytes(446) + entry + bytes(48) + b"\x55\xaa")
        stream.seek(FIRST_SECTOR * SECTOR)
        with root.open("rb") as source:
            shutil.copyfileobj(source, stream)
    root.unlink()
    return disk


def lead_a_life(machine: AgentMachine) -> None:
    """Have the agent of a machine, its first process, make a container that lives and goes."""
    with machine.endpoint.connect() as agent:
        assert agent.check() == "SERVING"
        assert agent.call("GetGuestDetails").agent_details.init_daemon
        container = agent.create(["sh", "-c", "read line; echo $line from $(hostname); exit 3"])
        container.start()
        container.write(b"hello\n")
        assert container.read_all() == f"hello from {container.name}\n".encode()
        assert container.wait() == 3
        container.remove()


# --- As init of our image


def test_an_agent_is_the_first_process_of_our_image(boot_with: Boot, tmp_path: Path) -> None:
    machine = boot_with(agent=program(tmp_path / "other", OURS), agent_start=AgentStart.INIT)
    with machine.endpoint.connect() as agent:
        assert agent.version() == "4.0.7"
    lead_a_life(machine)
    with machine.over(Transport.VIRTIO_SERIAL).connect() as agent:
        assert agent.run(["sh", "-c", "exit 4"]).wait() == 4
    assert machine.broken is None
    assert machine.release.startswith("6.")


def test_an_agent_that_exits_as_init(boot_with: Boot, tmp_path: Path) -> None:
    path = program(tmp_path / "quitter", "#!/bin/sh\necho 'no config for me'\nexit 7\n")
    with pytest.raises(BootError) as refused:
        boot_with(agent=path, agent_start=AgentStart.INIT)
    message = str(refused.value)
    assert "kernel panic: Attempted to kill init! exitcode=0x00000700" in message
    assert "(the first process exited with status 7)" in message
    assert "| no config for me" in message


def test_an_agent_that_cannot_be_run_as_init(boot_with: Boot, tmp_path: Path) -> None:
    path = program(tmp_path / "script", "#!/no/such/interpreter\n")
    with pytest.raises(BootError, match=f"its init died: RuntimeError: could not run {path}: No such file"):
        boot_with(agent=path, agent_start=AgentStart.INIT)


# --- Guests that are somebody else's


def test_an_initrd_with_a_kernel(boot_with: Boot, theirs: Image) -> None:
    machine = boot_with(agent_kernel=theirs.kernel, agent_initrd=theirs.initramfs)
    lead_a_life(machine)
    assert machine.release == theirs.release
    assert machine.serial_ports == []
    machine.vm.kill()
    assert machine.broken == "it is dead"


def test_a_disk_image_with_a_kernel(boot_with: Boot, theirs: Image, tmp_path: Path) -> None:
    disk = pack_disk(theirs, tmp_path)
    before = disk.stat().st_mtime_ns
    lead_a_life(boot_with(agent_kernel=theirs.kernel, agent_image=disk, agent_disk=AgentDisk.NVME))
    assert disk.stat().st_mtime_ns == before


def test_a_kernel_that_does_not_find_its_root(boot_with: Boot, theirs: Image, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1080) + b"\x53\xef" + bytes(1 << 20))
    with pytest.raises(BootError, match="kernel panic: VFS: Unable to mount root fs"):
        boot_with(agent_kernel=theirs.kernel, agent_image=disk)  # the driver of virtio-blk is a module


def test_an_initrd_in_which_nothing_listens(boot_with: Boot, settings: Settings, tmp_path: Path) -> None:
    path = program(tmp_path / "idler", "#!/bin/sh\necho 'thinking'\nexec sleep 1000\n")
    cache = ImageCache(settings.cache, settings.mirror)
    image = cache.ensure(settings.kernel, "agent", agent=path, start=AgentStart.INIT)
    with pytest.raises(BootError) as refused:
        boot_with(agent_kernel=image.kernel, agent_initrd=image.initramfs, boot_timeout=25.0)
    message = str(refused.value)
    assert ":1024 to take a connection; last seen: port 1024 of the guest refused the connection" in message
    assert "| thinking" in message


def test_a_kernel_without_what_the_agent_needs(boot_with: Boot, theirs: Image, tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.symlink_to(theirs.kernel)
    (tmp_path / "config").write_text("CONFIG_VSOCKETS=y\n")
    with pytest.raises(RecipeError) as refused:
        boot_with(agent_kernel=kernel, agent_initrd=theirs.initramfs)
    message = str(refused.value)
    assert f"the kernel {kernel} ({theirs.release}) lacks what its agent needs: CONFIG_CGROUPS is n" in message
    assert "CONFIG_VIRTIO_VSOCKETS is n and has to be y or m, for virtio-vsock, on which the agent listens" in message
    assert f"this is what {tmp_path}/config says" in message


# --- The command


def kvtest(settings: Settings, results: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kvtest", "run", "-n", "0", "--results", str(results), *arguments],
        env={**os.environ, "KVTEST_CACHE": str(settings.cache)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("whole", [pytest.param(False, marks=pytest.mark.thorough), True], ids=["init", "whole"])
def test_the_agent_ring_runs_over_it(settings: Settings, theirs: Image, tmp_path: Path, whole: bool) -> None:
    brought = ["--agent-kernel", str(theirs.kernel), "--agent-initrd", str(theirs.initramfs)]
    files = [f"suites/agent/test_{name}.py" for name in ("life_cycle", "resources", "lost")]
    chosen = ["-k", "lives_and_goes or healthy or copied or vm_that or given_up"]
    results = tmp_path / "results"
    completed = kvtest(settings, results, *files, *chosen, *(brought if whole else ["--agent-start", "init"]))
    assert completed.returncode == 0, completed.stdout + completed.stderr
    checked = "whether it has what the agent needs could not be checked: there is no config-* beside it"
    assert (checked in " ".join(completed.stderr.split())) == whole
    tests = {test.id.split("::")[1]: test for test in Results.read(results / "results.jsonl").tests}
    assert bool([name for name in tests if "virtio-serial" in name]) != whole
    outcomes = {name.partition("[")[0]: test.outcome for name, test in tests.items()}
    assert outcomes == {
        "test_a_healthy_agent_says_that_it_serves": Outcome.PASSED,
        "test_a_container_lives_and_goes": Outcome.PASSED,
        "test_a_copied_file_is_whole": Outcome.SKIPPED,
        "test_a_file_is_copied_nowhere_else": Outcome.SKIPPED,
        "test_calls_in_flight_survive_a_vm_that_stands_still": Outcome.PASSED,
        "test_a_call_that_was_given_up_does_not_spoil_the_connection": Outcome.PASSED,
    }
    skipped = next(test for name, test in tests.items() if "copied" in name)
    assert "it looks into the agent's guest" in skipped.message


@pytest.mark.parametrize(
    ("kernel", "initrd", "message"),
    [
        ("none", "text", "could not read the kernel {0}/none: No such file or directory"),
        ("text", "text", "{0}/text is no Linux kernel for x86-64"),
        ("arm", "text", "the kernel {0}/arm is for aarch64, guests are x86-64"),
        (None, "none", "could not read the initrd {0}/none: No such file or directory"),
        (None, "text", "{0}/text is no initrd"),
    ],
)
def test_files_that_cannot_be_used_are_said_before_anything_runs(
    settings: Settings, theirs: Image, tmp_path: Path, kernel: str | None, initrd: str, message: str
) -> None:
    (tmp_path / "text").write_text("this is neither")
    (tmp_path / "arm").write_bytes(bytes(0x38) + b"ARM\x64" + bytes(100))
    chosen = theirs.kernel if kernel is None else tmp_path / kernel
    arguments = ["--agent-kernel", str(chosen), "--agent-initrd", str(tmp_path / initrd)]
    completed = kvtest(settings, tmp_path / "results", "agent", *arguments)
    assert completed.returncode == 2
    assert message.format(tmp_path) in " ".join(completed.stderr.split())


def test_an_agent_that_does_not_come_up_is_said_once(settings: Settings, tmp_path: Path) -> None:
    path = program(tmp_path / "quitter", "#!/bin/sh\necho 'no config for me'\nexit 7\n")
    completed = kvtest(settings, tmp_path / "results", "agent", "--agent", str(path), "--agent-start", "init")
    assert completed.returncode != 0
    assert completed.stderr.count("(the first process exited with status 7)") == 1
    assert "| no config for me" in completed.stderr
    assert (tmp_path / "results/guests").is_dir()


def test_a_memory_that_the_initrd_does_not_fit_in(settings: Settings, theirs: Image, tmp_path: Path) -> None:
    small = attrs.evolve(settings, agent_kernel=theirs.kernel, agent_initrd=theirs.initramfs, memory=64)
    agents = AgentMachines(GuestFactory(small, tmp_path))
    with pytest.raises(BootError, match=r"QEMU ended \(exit status 0\): the guest was reset, or has powered off"):
        agents.try_out()
    assert {path.name for path in (tmp_path / "guest-1").iterdir()} == {"console.log", "qemu.log", "qemu.sh"}
