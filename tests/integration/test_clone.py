# SPDX-License-Identifier: Apache-2.0
"""Clones: guests that go on where a template was frozen."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import evolve

from kvtest import Steps
from kvtest.control import GuestControl
from kvtest.errors import BootError, CacheError, HostError, TemplateRemovedError
from kvtest.guest import libc
from kvtest.harness import Guest, GuestFactory, GuestRequest
from kvtest.host.memory import available_memory
from kvtest.peers import echo, receive_exactly
from kvtest.vm import QEMU, VM, restoration
from kvtest.vm.configuration import ColdBoot
from kvtest.vm.restoration import Restoration
from kvtest.vm.template import Template
from kvtest.vm.template_cache import ROOM, TemplateCache, template_cache, template_name


@pytest.fixture
def template(factory: GuestFactory) -> Template:
    return factory.template(factory.configuration(GuestRequest()))


def draw() -> dict[str, object]:
    """Say what nobody else may say; runs in the guest."""
    import os
    import random

    with open("/etc/machine-id") as machine, open("/proc/sys/kernel/random/boot_id") as boot:
        return {
            "urandom": os.urandom(16),
            "random": random.random(),
            "uuid": open("/proc/sys/kernel/random/uuid").read(),
            "machine": machine.read(),
            "boot": boot.read(),
            "hostname": os.uname().nodename,
        }


# Makes a template that no other test uses, MiB.
MEMORY_OF_ITS_OWN = 264


def test_clones_of_one_template_differ(clone: Callable[..., Guest]) -> None:
    guests = [clone() for _ in range(3)]
    drawn = [guest.call(draw) for guest in guests]
    for name in drawn[0]:
        assert len({repr(one[name]) for one in drawn}) == 3, name
    assert all(len(str(one["machine"]).strip()) == 32 for one in drawn)
    assert len({guest.cid for guest in guests}) == 3
    assert len({guest.release for guest in guests}) == 1


def test_clones_that_are_not_told_apart_are_the_same(factory: GuestFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above would see if nothing were done: it can fail.

    A template that was frozen shortly before its kernel was to stir its random numbers, which it does by the times of
    its interrupts, has clones that differ even so; then another template is tried.
    """
    drawn: list[dict[str, object]] = []
    for number in range(1, 9):
        configuration = factory.configuration(GuestRequest(memory=MEMORY_OF_ITS_OWN + 4 * number), vsock=False)
        factory.template(configuration)
        with monkeypatch.context() as untold:
            untold.setattr(GuestControl, "personalize", lambda self, _name, deadline=None: self.ping(deadline))
            for _ in range(3):
                with factory.start(configuration) as guest:
                    drawn.append(guest.call(draw))
                if drawn[-1] in drawn[:-1]:
                    return
    raise AssertionError(f"no two clones were the same: {drawn}")


def test_what_one_clone_writes_no_other_sees(clone: Callable[..., Guest]) -> None:
    first, second = clone(vsock=False), clone(vsock=True)
    for number, guest in enumerate((first, second)):
        guest.write_file("/tmp/mine", b"%d" % number)
    assert [guest.read_file("/tmp/mine") for guest in (first, second)] == [b"0", b"1"]
    assert clone().run(["test", "-e", "/tmp/mine"]).code == 1


def set_the_clock(nanoseconds: int) -> None:
    """Runs in the guest."""
    time.clock_settime_ns(time.CLOCK_REALTIME, nanoseconds)


def now() -> float:
    """Runs in the guest."""
    return time.time()


def test_a_clone_knows_the_time(clone: Callable[..., Guest]) -> None:
    guest = clone(vsock=False)
    guest.call(set_the_clock, 10**18)
    assert abs(guest.call(now) - 10**9) < 3600
    guest.control.personalize("later")
    assert abs(guest.call(now) - time.time()) < 3600


def test_vsock_both_ways_and_at_once(clone: Callable[..., Guest]) -> None:
    for guest in [clone() for _ in range(2)]:
        with guest.serve(echo) as service, guest.vsock.connect(service.port) as client:
            client.sendall(b"hello")
            assert receive_exactly(client, 5) == b"hello"


def test_other_machines_have_other_templates(
    clone: Callable[..., Guest], factory: GuestFactory, template: Template
) -> None:
    differences: list[dict[str, object]] = [{"memory": 400}, {"cpus": 2}, {"kernel_arguments": ["kvtest.x=1"]}]
    machines = [factory.configuration(GuestRequest().updated(difference)) for difference in differences]
    assert len({template.name, *(template_name(machine) for machine in machines)}) == 4
    guest = clone(**{name: value for difference in differences for name, value in difference.items()})
    assert int(guest.read_file("/proc/meminfo").split()[1]) // 1024 > 300
    assert guest.run(["nproc"]).text.strip() == "2"
    assert b"kvtest.x=1" in guest.read_file("/proc/cmdline")


def test_another_version_of_qemu_has_templates_of_its_own(factory: GuestFactory, template: Template) -> None:
    configuration = factory.configuration(GuestRequest())
    assert template_name(configuration) == template.name
    newer = evolve(configuration, qemu=QEMU(configuration.qemu.path, "99.0"))
    assert template_name(newer) != template.name


@pytest.mark.parametrize("damaged", [pytest.param("memory", marks=pytest.mark.thorough), "state"])
def test_a_damaged_template_is_made_again(factory: GuestFactory, tmp_path: Path, damaged: str) -> None:
    steps: list[str] = []

    @contextlib.contextmanager
    def told(step: str) -> Iterator[None]:
        steps.append(step)
        yield

    cache = TemplateCache(tmp_path / "templates")
    configuration = factory.configuration(GuestRequest(), vsock=False)
    made = cache.ensure(configuration, tmp_path, told)
    assert any(step.startswith("template of") for step in steps)
    steps.clear()
    assert cache.ensure(configuration, tmp_path, told) == made
    assert steps == []
    with (made.directory / damaged).open("r+b") as stream:
        stream.truncate(4096)
    again = cache.ensure(configuration, tmp_path, told)
    assert any("is corrupt: building it again" in step for step in steps)
    with VM(configuration, tmp_path / "guest", "guest", again) as vm:
        assert vm.control.run(["true"]).code == 0


@contextlib.contextmanager
def small_file_system(path: Path, size: int) -> Iterator[None]:
    """Mount a file system in memory of ``size`` MiB."""
    path.mkdir()
    libc.mount("small", str(path), "tmpfs", f"size={size}m")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root: run it with sudo")
def test_no_room_for_a_template(factory: GuestFactory, tmp_path: Path) -> None:
    configuration = factory.configuration(GuestRequest(), vsock=False)
    directory = tmp_path / "templates"
    with small_file_system(directory, 100):
        with pytest.raises(CacheError, match=r"a guest with 256 MiB needs a file .* has room for \d+ MiB") as caught:
            TemplateCache(directory).ensure(configuration, tmp_path)
        assert "free space" in (caught.value.hint or "")
        assert [path.name for path in directory.iterdir()] == [".locks"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root: run it with sudo")
def test_a_machine_whose_memory_file_cannot_grow(factory: GuestFactory, tmp_path: Path) -> None:
    configuration = factory.configuration(GuestRequest(), vsock=False)
    directory = tmp_path / "small"
    with small_file_system(directory, 40):
        memory = directory / "memory"
        memory.touch()
        os.truncate(memory, configuration.memory << 20)
        with pytest.raises(BootError, match="killed by SIGBUS") as caught:
            VM(configuration, tmp_path / "guest", "guest", ColdBoot(memory)).boot()
        assert "no room to grow" in (caught.value.hint or "")


def test_a_clock_that_has_jumped_back_since_the_template_was_made(factory: GuestFactory, tmp_path: Path) -> None:
    """Times only say what was used last: a template from the future is good, and clones know the time."""
    cache = TemplateCache(tmp_path / "templates")
    configuration = factory.configuration(GuestRequest(), vsock=False)
    made = cache.ensure(configuration, tmp_path)
    for path in (*made.directory.iterdir(), made.directory):
        os.utime(path, (time.time() + 86400 * 365,) * 2)

    def told(step: str) -> contextlib.AbstractContextManager[None]:
        raise AssertionError(step)

    assert cache.ensure(configuration, tmp_path, told) == made
    with VM(configuration, tmp_path / "guest", "guest", made) as vm:
        assert abs(int(vm.control.run(["date", "+%s"]).text) - time.time()) < 60


def test_no_room_for_the_memory_of_a_clone(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    limits, limited = resource.getrlimit(resource.RLIMIT_FSIZE), threading.Event()
    copy = Restoration._copy
    monkeypatch.setattr(Restoration, "_copy", lambda self, memory: limited.wait(20) and copy(self, memory))
    with contextlib.ExitStack() as resources:
        restoration = Restoration(template, shared=True, resources=resources)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
        limited.set()
        try:
            resources.close()  # which waits for the copy
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(HostError, match=r"could not copy a template's memory of .* MB: File too large") as caught:
        restoration.check()
    assert "-n" in (caught.value.hint or "")


def test_a_restore_that_qemu_refuses_is_told_at_once(
    factory: GuestFactory, template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = {"execute": "migrate-incoming", "arguments": {"uri": "nowhere:"}}
    commands = restoration._commands
    monkeypatch.setattr(restoration, "_commands", lambda state: [*commands(state)[:-1], nowhere])
    with pytest.raises(BootError, match=r"QEMU refused migrate-incoming: .*nowhere"):
        VM(factory.configuration(GuestRequest()), tmp_path, start=template).boot()


def test_a_guest_that_boots_by_itself_on_request(factory: GuestFactory) -> None:
    with factory.start(factory.configuration(GuestRequest()), cold=True) as guest:
        assert b"initrd" in (guest.vm.artifacts / "qemu.sh").read_bytes()
        with guest.serve(echo) as service, guest.vsock.connect(service.port) as client:
            client.sendall(b"hello")
            assert receive_exactly(client, 5) == b"hello"


def test_a_clone_is_as_its_template_in_all_else(clone: Callable[..., Guest]) -> None:
    guest = clone(serial_ports=["one", "two"])
    assert sorted(guest.run(["ls", "/dev/virtio-ports"]).text.split()) == ["one", "org.kvtest.control", "two"]
    with guest.serial_ports[1].connect() as host:
        with guest.start(write_to, "/dev/virtio-ports/two") as task:
            assert task.send() == 5
        assert receive_exactly(host, 5) == b"hello"


def write_to(path: str) -> Steps:
    """Runs in the guest."""
    with open(path, "wb", buffering=0) as stream:
        yield "open"
        yield stream.write(b"hello")


def test_templates_can_be_pruned(factory: GuestFactory, tmp_path: Path) -> None:
    cache = TemplateCache(tmp_path / "templates")
    made = cache.ensure(factory.configuration(GuestRequest(), vsock=False), tmp_path)
    assert cache.names() == [made.name]
    assert cache.prune(lambda _name: False) == [made.name]
    assert cache.names() == []


def test_a_template_in_use_is_not_removed(factory: GuestFactory, tmp_path: Path) -> None:
    cache = TemplateCache(tmp_path / "templates")
    configuration = factory.configuration(GuestRequest(), vsock=False)
    made = cache.ensure(configuration, tmp_path)
    with VM(configuration, tmp_path / "clone", "clone", made) as vm:
        assert cache.prune(lambda _name: False) == []
        assert vm.control.run(["true"]).code == 0
    assert cache.prune(lambda _name: False) == [made.name]
    with pytest.raises(TemplateRemovedError, match="has been removed"):
        VM(configuration, tmp_path / "late", "late", made).launch()


def test_a_template_that_was_removed_between_two_guests_is_made_again(factory: GuestFactory) -> None:
    configuration = factory.configuration(GuestRequest(memory=MEMORY_OF_ITS_OWN), vsock=False)
    template = factory.template(configuration)
    cache = TemplateCache(template.directory.parent)
    for _ in range(2):
        factory.start(configuration).close()
        assert cache.prune(lambda name: name != template.name) == [template.name]


def test_templates_that_nobody_uses_go(factory: GuestFactory, tmp_path: Path) -> None:
    root = tmp_path / "templates"
    for number in range(12):
        (root / f"template-{number}").mkdir(parents=True)
        age = 0 if number == 11 else (20 - number) * 3600
        os.utime(root / f"template-{number}", (time.time() - age, time.time() - age))
    cache = TemplateCache(root)
    made = cache.ensure(factory.configuration(GuestRequest(), vsock=False), tmp_path)
    kept = {f"template-{number}" for number in range(4, 12)}
    assert set(cache.names()) == kept | {made.name}


def test_a_guest_that_memory_has_no_room_for_has_its_template_in_the_cache(tmp_path: Path) -> None:
    space = os.statvfs("/dev/shm")
    room = min(space.f_bavail * space.f_frsize, available_memory())
    assert room >= ROOM + (256 << 20), "there is too little memory for this test"
    for memory, place in ((256, Path("/dev/shm")), (room >> 20, tmp_path)):
        directory = template_cache(tmp_path, memory).directory
        assert directory.is_relative_to(place)
        assert not directory.exists(), "only a template needs it"
