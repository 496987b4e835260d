# SPDX-License-Identifier: Apache-2.0
"""Lab hosts: the suites over the kernel's own vhost-vsock, in a machine that has it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from kvtest.accelerator import Accelerator
from kvtest.cache import Store
from kvtest.conformance import Ring
from kvtest.control import Process
from kvtest.deadline import Deadline
from kvtest.errors import HostError, UsageError
from kvtest.harness import GuestFactory, GuestRequest
from kvtest.host import bundle, lab_guests, lab_machine
from kvtest.host.lab import BASE, Lab, kernel_of
from kvtest.host.lab_machine import CACHE, LabMachine
from kvtest.host.parcels import of_tests
from kvtest.report import Outcome, Results
from kvtest.settings import Settings
from kvtest.transport import Transport
from kvtest.vm.template_cache import template_name
from kvtest.vsock import KernelVsock, reservation
from tests.integration.test_foreign_agent import OURS, program

CHOSEN = ("suites/transport/test_vsock_directions.py", "suites/transport/test_vsock_clients.py")
ITEMS = 15


def test_suites_run_over_the_vsock_of_the_kernel(settings: Settings, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kvtest", "run", *CHOSEN, "--host", "lab"]
    completed = subprocess.run(
        [*command, f"--cache={settings.cache}"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert f"{ITEMS} passed" in completed.stdout
    tests = Results.read(tmp_path / "kvtest-results/results.jsonl").tests
    assert {test.outcome for test in tests} == {Outcome.PASSED}
    assert {test.properties["transport"] for test in tests} == {"vhost-vsock"}
    if GuestFactory(settings, tmp_path).accelerator.accelerator is Accelerator.TCG:  # which has AMD's virtualization
        assert {test.properties["accelerator"] for test in tests} == {"kvm"}
    assert len(tests) == ITEMS
    assert (tmp_path / "kvtest-results/junit.xml").is_file()
    assert list((tmp_path / "kvtest-results/artifacts").glob("*/guest*"))


@pytest.mark.thorough
def test_another_distribution_has_another_qemu_and_python(settings: Settings, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kvtest", "run", CHOSEN[0], "--host", "lab", "--lab-image", "lab-trixie"]
    completed = subprocess.run(
        [*command, f"--cache={settings.cache}"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert completed.returncode == 0, completed.stdout[-4000:] + completed.stderr[-2000:]
    tests = Results.read(tmp_path / "kvtest-results/results.jsonl").tests
    assert {test.properties["qemu"].partition(".")[0] for test in tests if test.outcome is Outcome.PASSED} == {"10"}


TEST_OF_THE_AGENT = """
import pytest

@pytest.mark.guest(image="agent", vsock=True)
def test_it_is_that_one(agent):
    assert agent.version() == "4.0.7"
"""


@pytest.mark.thorough
def test_an_agent_of_ones_own_runs_there(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(TEST_OF_THE_AGENT)
    agent = program(tmp_path / "agent", OURS)
    command = [sys.executable, "-m", "kvtest", "run", "test_own.py", "--host", "lab", f"--agent={agent}"]
    completed = subprocess.run(
        [*command, f"--cache={settings.cache}"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert completed.returncode == 0, completed.stdout[-4000:] + completed.stderr[-2000:]
    assert "1 passed" in completed.stdout


class WithoutDevice(LabMachine):
    """A lab host whose KVM cannot be used."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.guest.run(["rm", "/dev/kvm"]).check()


@pytest.mark.thorough
@pytest.mark.parametrize("loaded", [False, True])
def test_without_a_kvm_of_its_own_the_guests_are_emulated(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: bool
) -> None:
    """No module for its processor, or one that makes no KVM: the templates of this machine are the lab host's too."""
    if loaded:
        monkeypatch.setattr(lab_guests, "LabMachine", WithoutDevice)
    else:
        monkeypatch.setattr(lab_machine, "_KVM_MODULES", ())
    image = GuestFactory(settings, tmp_path).image(recipe=settings.lab_image)
    site = bundle.ensure(settings.cache, image)
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setattr(lab_guests, "store", lambda _cache: Store(Path(directory)))
        guests = lab_guests.ensure(settings, None, site, tmp_path / "host", rings=[Ring.TRANSPORT])
        assert (guests.accelerator, guests.memory) == (Accelerator.TCG, "")
        (entry,) = Path(directory).glob("guests-*/manifest.json")
        problem = "there is no /dev/kvm" if loaded else "the processor of the lab host has no virtualization"
        assert problem in json.loads(entry.read_bytes())["problem"]
        with closing(LabMachine(settings, None, site, guests.disk, tmp_path / "host")) as machine:
            there = machine.guest.run(["ls", f"{CACHE}/templates"]).text.split()
    factory = GuestFactory(attrs.evolve(settings, transport=(Transport.VHOST_VSOCK,)), tmp_path)
    assert there == [template_name(factory.configuration(GuestRequest(), vsock=False))]


class FallsSilent(LabMachine):
    """A lab host that hangs as soon as it is to make templates; the next one has no KVM, and needs to make none."""

    stopped = 0

    def python(self, arguments: Sequence[str]) -> Process:
        process = super().python(arguments)
        os.kill(self.guest.vm.process.pid, signal.SIGSTOP)
        FallsSilent.stopped = self.guest.vm.process.pid
        lab_machine._KVM_MODULES = ()
        return process


@pytest.mark.thorough
def test_a_lab_that_is_lost_while_it_makes_templates_is_cloned_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_guests, "LabMachine", FallsSilent)
    monkeypatch.setattr(lab_guests, "SILENCE_SECONDS", 5.0)
    monkeypatch.setattr(lab_machine, "_KVM_MODULES", lab_machine._KVM_MODULES)  # put back at the end
    monkeypatch.setattr(lab_guests, "store", lambda _cache: Store(tmp_path / "guests"))
    site = bundle.ensure(settings.cache, GuestFactory(settings, tmp_path).image(recipe=settings.lab_image))
    guests = lab_guests.ensure(settings, None, site, tmp_path / "host", rings=[Ring.TRANSPORT])
    assert not Path(f"/proc/{FallsSilent.stopped}").exists()
    assert guests.accelerator is Accelerator.TCG
    (entry,) = (tmp_path / "guests").glob("guests-*/manifest.json")
    manifest = json.loads(entry.read_bytes())
    assert manifest["failed"] == "the lab host is lost: it has said nothing for 10 s"
    assert manifest["problem"] == "the processor of the lab host has no virtualization"


@pytest.fixture
def lab(settings: Settings, tmp_path: Path) -> Iterator[Lab]:
    with Lab("lab", attrs.evolve(settings, results=tmp_path), None, tmp_path / "host") as lab:
        yield lab


OWN_TESTS = """
import pytest

@pytest.mark.parametrize("word", ["one", "two", "three"])
def test_of_ones_own(guest, word, artifacts):
    (artifacts / "kept").write_text(word)
    assert guest.run(["echo", word]).text == word.replace("one", "another")
"""


def test_a_lab_that_is_lost(lab: Lab, tmp_path: Path) -> None:
    """One that falls silent is cloned again and goes on; one that dies is a message with its console."""
    own = tmp_path / "own/test_own.py"
    own.parent.mkdir()
    own.write_text(OWN_TESTS)
    tests = of_tests([own])
    lab.bring([tests])
    lab.silence = 20.0
    said: list[bytes] = []
    stopped: list[int] = []

    def harm(data: bytes) -> None:
        said.append(data)
        if b" PASSED" in data:
            lab._guest.vm.kill()
        elif b" FAILED " in data and not stopped:
            stopped.append(lab._guest.vm.process.pid)
            os.kill(stopped[0], signal.SIGSTOP)

    with pytest.raises(HostError, match="the lab host is lost: ") as lost:
        lab.run([tests.there(own, BASE)], [], harm)
    assert all(line.startswith(b"lab: ") for line in said)
    assert any(b"it has said nothing for 20 s; it is cloned again, " in line for line in said)
    assert not Path(f"/proc/{stopped[0]}").exists()
    left = Results.read(tmp_path / "results.jsonl")
    assert [test.outcome for test in left.tests] == [Outcome.FAILED, Outcome.PASSED]
    kept = Path(left.tests[0].properties["artifacts"])
    assert (kept / "kept").read_text() == "one"
    assert list(kept.glob("*/console.log"))
    name = f"{os.path.relpath(own)}::test_of_ones_own"
    assert [test.id for test in left.tests] == [f"{name}[one]", f"{name}[two]"]
    assert left.missing == (f"{name}[three]",)
    assert not left.complete
    assert "it has said nothing" in left.run.properties["cloned_again"]
    assert "it has said nothing" in (tmp_path / "junit.xml").read_text()
    assert (tmp_path / "host/lab-1").is_dir()
    assert "host/lab-again-1" in (lost.value.hint or "")
    with pytest.raises(HostError, match="the lab host is lost: "):
        lab.fetch(tmp_path)


TESTS_TO_INTERRUPT = """
import threading

def test_fails(artifacts):
    (artifacts / "kept").write_text("first")
    assert artifacts is None

def test_waits(artifacts):
    (artifacts / "kept").write_text("second")
    threading.Event().wait()

def test_is_never_run():
    pass
"""


def test_an_interrupt_ends_the_run_there_in_order(lab: Lab, tmp_path: Path) -> None:
    own = tmp_path / "own/test_own.py"
    own.parent.mkdir()
    own.write_text(TESTS_TO_INTERRUPT)
    tests = of_tests([own])
    lab.bring([tests])
    said: list[bytes] = []

    def interrupt(data: bytes) -> None:
        said.append(data)
        if b"test_fails FAILED" in data:
            signal.raise_signal(signal.SIGINT)

    assert lab.run([tests.there(own, BASE)], [], interrupt) == 1
    lab.fetch(tmp_path)
    assert lab.interrupts is not None
    assert lab.interrupts.came
    assert any(b"the run was interrupted" in line for line in said)
    read = Results.read(tmp_path / "results.jsonl")
    assert not read.complete
    assert read.tests[0].outcome is Outcome.FAILED
    assert (Path(read.tests[0].properties["artifacts"]) / "kept").read_text() == "first"
    assert not any("test_is_never_run" in test.id for test in read.tests)


def test_the_doctor_loads_the_module_of_vhost_vsock(lab: Lab) -> None:
    guest = lab._guest
    guest.run(["modprobe", "-r", "vhost_vsock"]).check()
    assert guest.run(["test", "-e", "/dev/vhost-vsock"]).code != 0
    command = ["-m", "kvtest", "doctor", "--fix", "--json", "--accelerator=tcg", f"--cache={CACHE}"]
    printed = b"".join(data for _, data in lab._machine.python(command).output(Deadline(120.0)))
    told = json.loads(printed)
    assert told["done"] == ["modprobe -i vhost_vsock: done"]
    rows = {row["check"]: row for row in told["checks"]}
    assert (rows["vhost_vsock"]["found"], rows["/dev/vhost-vsock"]["found"]) == ("loaded", "opens, and reserves a CID")
    assert guest.run(["test", "-c", "/dev/vhost-vsock"]).code == 0


@pytest.mark.parametrize(("host", "kernel"), [("lab", None), ("lab:6.1", "6.1"), ("lab:path:/boot", "path:/boot")])
def test_the_kernel_of_a_lab(host: str, kernel: str | None) -> None:
    assert kernel_of(host) == kernel


def test_what_is_no_host() -> None:
    with pytest.raises(UsageError, match="'lob' is no host"):
        kernel_of("lob")


def test_this_machine_opens_no_vsock_that_nobody_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("socket.socket", lambda *_arguments: pytest.fail("a socket was opened"))
    monkeypatch.setattr(reservation, "DEVICE", str(tmp_path / "vhost-vsock"))
    with pytest.raises(HostError, match="does not open: No such file or directory"):
        KernelVsock(3).connect(1024)
    (tmp_path / "vhost-vsock").touch()
    monkeypatch.setattr("fcntl.ioctl", lambda *_arguments: 0)  # the CID could be taken: nobody had it
    with pytest.raises(ConnectionRefusedError, match="the guest is gone"):
        KernelVsock(3).connect(1024)
    with pytest.raises(HostError, match="the guest is gone"):
        KernelVsock(3).listen(1024)
    assert os.listdir(tmp_path) == ["vhost-vsock"]
