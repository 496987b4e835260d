# SPDX-License-Identifier: Apache-2.0
"""Real guests: how they start, how they end, and what is said when they do not start."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve

from kvtest.accelerator import AcceleratorChoice
from kvtest.deadline import Deadline
from kvtest.errors import AcceleratorError, BootError, ConnectionLostError, HostError, MissingToolError, StateError
from kvtest.harness import Guest, GuestFactory, GuestRequest
from kvtest.image import ImageCache
from kvtest.image.recipe import load_kernels
from kvtest.transport import EVERYWHERE, Transport
from kvtest.vm import QEMU, VM, Accelerator, State
from kvtest.vm import accelerator as accelerators
from kvtest.vm.accelerator import decide, probe, race


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def crash_the_daemon() -> None:
    os.kill(os.getppid(), signal.SIGSEGV)
    signal.pause()


def test_a_life(boot: Callable[..., Guest]) -> None:
    guest = boot(serial_ports=["first port", "second"], memory=192)
    assert guest.vm.state is State.READY
    assert guest.run(["uname", "-r"]).text == guest.release
    assert {"vsock", "vmw_vsock_virtio_transport"} <= set(guest.control.modules())
    assert guest.control.sockets()["vsock"] == []
    with guest.serve(answer) as service:
        (listener,) = guest.control.sockets()["vsock"]
        assert (listener["state"], listener["local"][1]) == ("listening", service.port)
    assert any("Linux version" in line for line in guest.control.kernel_log())
    assert guest.run(["ls", "/dev/virtio-ports"]).text.splitlines() == ["first port", "org.kvtest.control", "second"]
    assert guest.run(["ls", "/sys/class/net"]).text == "lo"
    guest.vm.pause()
    with pytest.raises(StateError, match=r"power_off\(\) needs a machine that is ready, guest-1 is paused"):
        guest.vm.power_off()
    guest.vm.resume()
    assert guest.run(["true"]).code == 0
    guest.vm.power_off()
    assert guest.vm.process.status == 0
    with pytest.raises(StateError, match="guest-1 is dead"):
        guest.vm.kill()
    script = guest.vm.artifacts / "qemu.sh"
    assert "virtserialport" in script.read_text()
    assert "kvtest: powering off" in guest.vm.console.text()


def test_nothing_is_left_behind(boot: Callable[..., Guest]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    guest = boot()
    directory, pid = guest.vm.directory, guest.vm.process.pid
    assert directory.exists()
    guest.close()
    assert not directory.exists()
    assert not Path(f"/proc/{pid}").exists()
    # The event loop of the monitors stays, with its own descriptors; nothing of this guest does.
    guest = boot()
    first = len(os.listdir("/proc/self/fd"))
    guest.close()
    guest = boot()
    assert len(os.listdir("/proc/self/fd")) == first
    guest.close()
    assert len(before) <= first


def test_a_crashed_daemon_is_told_and_panics_the_guest(boot: Callable[..., Guest]) -> None:
    guest = boot()
    with pytest.raises(ConnectionLostError):
        guest.call(crash_the_daemon)
    guest.vm.process.wait(Deadline(30))
    assert guest.vm.console.init_failure() == "the control daemon was killed by SIGSEGV"
    assert guest.died == "the guest panicked: the control daemon was killed by SIGSEGV"


# Between the oldest and the newest are the one that all other tests use, and one that a thorough run tries.
@pytest.mark.parametrize(
    "kernel", [pytest.param(name, marks=[pytest.mark.thorough] if name == "6.1" else []) for name in load_kernels()]
)
def test_every_kernel_boots_and_has_vsock(boot: Callable[..., Guest], kernel: str) -> None:
    guest = boot(kernel=kernel)
    assert guest.release.startswith(kernel)
    with guest.serve(answer) as service, guest.vsock.connect(service.port) as connection:
        assert connection.recv(10) == b"hello"


def answer(connection: socket.socket) -> None:
    connection.sendall(b"hello")


# --- What is said when a guest does not start


def fails(factory: GuestFactory, qemu: QEMU | None = None, timeout: float = 120.0, **request: object) -> str:
    configuration = factory.configuration(GuestRequest().updated(request))
    configuration = evolve(configuration, boot_timeout=timeout, qemu=qemu or configuration.qemu)
    vm = VM(configuration, factory.artifacts / "broken", "broken")
    with pytest.raises(BootError) as caught:
        vm.boot()
    assert vm.state is State.DEAD
    assert str(vm.artifacts) in (caught.value.hint or "")
    return str(caught.value)


def test_a_kernel_panic(factory: GuestFactory) -> None:
    message = fails(factory, kernel_arguments=["rdinit=/nowhere", "init=/nowhere"])
    assert message.startswith("broken did not boot: kernel panic: ")
    assert "console ends with" in message


def test_an_init_that_died(factory: GuestFactory, tmp_path: Path) -> None:
    image = factory.image()
    broken = tmp_path / "initramfs"
    from kvtest.image.cpio import Archive

    overlay = Archive()
    overlay.file("etc/kvtest/modules", b"/usr/lib/modules/no-such-module.ko\n")
    broken.write_bytes(image.initramfs.read_bytes() + overlay.finish())
    factory._images[factory.settings.kernel, factory.settings.guest_image] = evolve(image, initramfs=broken)
    message = fails(factory)
    assert "broken did not boot: its init died: RuntimeError: modprobe no-such-module exited with status 1" in message


def test_a_qemu_that_ends(factory: GuestFactory, tmp_path: Path) -> None:
    qemu = QEMU(script(tmp_path / "qemu", "echo 'no good today' >&2; exit 7"), "7.2.0")
    assert "QEMU ended (exit status 7): no good today" in fails(factory, qemu)


def test_a_guest_that_is_too_slow(factory: GuestFactory) -> None:
    message = fails(factory, timeout=0.3)
    assert "broken did not boot: waited 0." in message


# --- QEMU and accelerators


def test_qemu_that_is_missing_old_or_something_else(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="was not found") as caught:
        QEMU.find("no-such-qemu")
    assert "apt-get install qemu-system-x86" in (caught.value.hint or "")
    with pytest.raises(MissingToolError, match=r"is QEMU 5\.2, kvtest needs 7\.2"):
        QEMU.find(script(tmp_path / "old", "echo QEMU emulator version 5.2.0"))
    with pytest.raises(HostError, match="printed 'hello"):
        QEMU.find(script(tmp_path / "other", "echo hello"))
    with pytest.raises(HostError, match="failed"):
        QEMU.find(script(tmp_path / "bad", "exit 1"))


def test_the_probe_guest_runs_under_tcg(factory: GuestFactory) -> None:
    assert probe(factory.qemu, factory.image().kernel, Accelerator.TCG, Deadline(60)) is None


def test_the_probe_tells_what_went_wrong(factory: GuestFactory, tmp_path: Path) -> None:
    ends = QEMU(script(tmp_path / "ends", "echo 'no KVM for you' >&2; exit 1"), "7.2.0")
    assert probe(ends, factory.image().kernel, Accelerator.KVM, Deadline(60)) == "no KVM for you"
    hangs = QEMU(script(tmp_path / "hangs", "exec sleep 1000"), "7.2.0")
    assert "did not reach user space" in str(probe(hangs, factory.image().kernel, Accelerator.KVM, Deadline(0.2)))


def test_auto_falls_back_and_remembers_why(
    factory: GuestFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "kvm"
    monkeypatch.setattr(accelerators, "KVM_DEVICE", device)
    counted = f'case "$*" in *accel=kvm*) echo x >>{tmp_path}/runs;; esac'  # TCG, beside it, may end before it begins
    qemu = QEMU(script(tmp_path / "qemu", f"{counted}; echo 'this KVM hangs' >&2; exit 1"), "7.2.0")
    kernel, cache = factory.image().kernel, tmp_path / "cache"

    decision = decide(AcceleratorChoice.AUTO, qemu, kernel, cache)
    assert decision.accelerator is Accelerator.TCG
    assert "there is no" in decision.reason

    device.touch()
    for _ in range(2):
        decision = decide(AcceleratorChoice.AUTO, qemu, kernel, cache)
        assert (decision.accelerator, decision.reason) == (
            Accelerator.TCG,
            "KVM cannot run a guest here: this KVM hangs",
        )
    assert (tmp_path / "runs").read_text() == "x\n"
    with pytest.raises(AcceleratorError, match="this KVM hangs"):  # more time than for who did not ask for it
        decide(AcceleratorChoice.KVM, qemu, kernel, cache)
    assert (tmp_path / "runs").read_text() == "x\n" * 2
    (cache / "accelerator.json").write_text('{"key": {"boot": "another"}, "problem": "old"}')
    decide(AcceleratorChoice.AUTO, qemu, kernel, cache)
    assert (tmp_path / "runs").read_text() == "x\n" * 3


def test_nobody_waits_for_a_kvm_that_is_slower_than_tcg(factory: GuestFactory, tmp_path: Path) -> None:
    hangs = f'case "$*" in *accel=kvm*) exec sleep 1000;; esac; exec {factory.qemu.path} "$@"'
    problem = race(QEMU(script(tmp_path / "qemu", hangs), "7.2.0"), factory.image().kernel, Deadline(300))
    assert problem is not None
    found = re.fullmatch(
        r"a probe guest did not reach user space within (\d+) s; under TCG one did within (.*) s", problem
    )
    assert found is not None, problem
    assert float(found[1]) < 300
    neither = QEMU(script(tmp_path / "neither", "exec sleep 1000"), "7.2.0")
    problem = race(neither, factory.image().kernel, Deadline(0.3))
    assert problem == "a probe guest did not reach user space within 0 s"


def test_without_permission_the_cure_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    device.touch(mode=0o000)
    monkeypatch.setattr(accelerators, "KVM_DEVICE", device)
    if os.geteuid() == 0:  # whom no permission stops
        monkeypatch.setattr(os, "open", _refuse)
    with pytest.raises(AcceleratorError, match=r"no permission to open .*usermod -aG kvm"):
        decide(AcceleratorChoice.KVM, QEMU("/q", "7.2"), tmp_path, tmp_path)


def _refuse(*_arguments: object) -> int:
    raise PermissionError(13, "Permission denied")


def test_a_machine_with_one_transport(factory: GuestFactory) -> None:
    configuration = factory.configuration(GuestRequest())
    for transport in EVERYWHERE:
        with factory.boot(evolve(configuration, transports=frozenset({transport}))) as guest:
            assert bool(guest.serial_ports) is (transport is Transport.VIRTIO_SERIAL)
            assert guest.run(["true"]).code == 0


def test_the_cache_finds_what_it_built(factory: GuestFactory) -> None:
    image = factory.image()
    assert ImageCache(factory.settings.cache).find(factory.settings.kernel) == image
