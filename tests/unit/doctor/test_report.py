# SPDX-License-Identifier: Apache-2.0
"""From findings to the report and its verdict."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from kvtest.doctor import Check, Finding, Need, Report, Status, containerd, examine, lab
from kvtest.doctor.examination import CHECKS, demands, examination, mend, with_pods
from kvtest.doctor.report import GUESTS, Demands
from kvtest.doctor.system import Device, KernelModules, Program, Room, System
from kvtest.errors import HostError
from kvtest.settings import LoadedSettings, Settings, load
from tests.unit.doctor.conftest import Machine

SYSTEM = System("6.1")
OF_GUESTS = Demands(frozenset(GUESTS), frozenset(GUESTS))


def loaded(**given: str) -> LoadedSettings:
    return load(given, {}, {}, Path("/"))


def check(status: Status, *needed_by: Need) -> Check:
    return Check("it", needed_by, lambda _system, _settings: [Finding("it", "seen", status, needed_by)])


@pytest.mark.parametrize(
    ("status", "needed_by", "becomes", "works"),
    [
        ("ok", "transport", "ok", True),
        ("missing", "transport", "missing", False),
        ("missing", "agent", "missing", False),
        ("missing", "runtime", "missing", True),
        ("missing", "kata", "not needed", True),
        ("warning", "transport", "warning", True),
    ],
)
def test_the_verdict_follows(settings: Settings, status: str, needed_by: str, becomes: str, works: bool) -> None:
    wanted = frozenset((*GUESTS, Need.RUNTIME))
    report = examine([check(Status(status), Need(needed_by))], SYSTEM, settings, Demands(wanted, frozenset(GUESTS)))
    assert [row.status for row in report.findings] == [becomes]
    assert report.works is works


def test_pods_of_the_reference_runtime_need_what_guests_need(settings: Settings) -> None:
    checks = [check(Status.OK, *GUESTS), check(Status.OK, Need.TRANSPORT), check(Status.OK, Need.KATA)]
    report = with_pods(examine(checks, SYSTEM, settings, OF_GUESTS))
    assert [row.needed_by for row in report.findings] == [(*GUESTS, Need.RUNTIME), (Need.TRANSPORT,), (Need.KATA,)]


def test_a_check_that_fails_is_a_row(settings: Settings) -> None:
    def refuses(_system: System, _settings: Settings) -> Iterator[Finding]:
        yield Finding("first", "seen", Status.OK)
        raise HostError("there is no room", hint="make some")

    def breaks(_system: System, _settings: Settings) -> Iterator[Finding]:
        raise PermissionError(13, "Permission denied", "/secret")

    checks = [Check("refuses", GUESTS, refuses), Check("breaks", (Need.KATA,), breaks), check(Status.OK)]
    report = examine(checks, SYSTEM, settings, OF_GUESTS)
    first, refused, broken, last = report.findings
    assert (first.check, last.check) == ("first", "it")
    assert (refused.found, refused.cure, refused.status) == ("there is no room", "make some", Status.MISSING)
    assert broken.found == "could not be checked: PermissionError: [Errno 13] Permission denied: '/secret'"
    assert broken.status is Status.NOT_NEEDED
    assert not report.works


def test_the_schema_of_json() -> None:
    row = Finding("it", "seen", Status.MISSING, (Need.VHOST_VSOCK, Need.KATA), "mend it", ("true",))
    assert Report((row,), seconds=0.12345, done=("true: done",)).as_json() == {
        "schema": 1,
        "works": True,
        "seconds": 0.123,
        "done": ["true: done"],
        "checks": [
            {
                "check": "it",
                "found": "seen",
                "status": "missing",
                "needed_by": ["vhost-vsock", "kata"],
                "cure": "mend it",
            }
        ],
    }


def test_the_words_that_json_and_its_document_may_hold() -> None:
    document = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text()
    for word in (*Status, *Need):
        assert f"`{word}`" in document
    for key in Report((Finding("it", "seen", Status.OK),)).as_json():
        assert f'"{key}"' in document


def test_what_has_to_work(machine: Machine) -> None:
    default = demands(loaded(), SYSTEM)
    assert default.wanted == {*GUESTS, Need.RUNTIME}
    assert default.demanded == set(GUESTS)
    assert default.if_there == {Need.RUNTIME}
    assert demands(loaded(), attrs.evolve(SYSTEM, without_runtime=True)).if_there == set()
    with_kata = demands(loaded(), machine("kata-4.2"))
    assert with_kata.wanted == {*GUESTS, Need.RUNTIME, Need.KATA, Need.VHOST_VSOCK}
    assert with_kata.demanded == set(GUESTS)
    assert demands(loaded(runtime="kata"), SYSTEM).demanded == {*GUESTS, Need.RUNTIME, Need.KATA, Need.VHOST_VSOCK}
    assert demands(loaded(runtime="reference"), SYSTEM).demanded == {*GUESTS, Need.RUNTIME}


HANGING = Program("containerd", "/usr/bin/containerd", problem="it did not end within 3 s")
WORKING = Program("containerd", "/usr/bin/containerd", said="containerd 1.6.20")
OTHERS = (Program("mkfs.erofs", "/usr/bin/mkfs.erofs"),)
STUCK = "/usr/bin/containerd did not start: it ended: exit status 1; its log ends with: no room"


@pytest.mark.parametrize(
    ("changes", "given", "works"),
    [
        ({"programs": (WORKING, *OTHERS)}, {}, True),
        ({"programs": OTHERS}, {}, True),  # its tests are skipped
        ({"programs": OTHERS}, {"runtime": "reference"}, False),
        ({"programs": (HANGING, *OTHERS)}, {}, False),  # it ends the run
        ({"programs": (WORKING, *OTHERS), "containerd_problem": STUCK}, {}, False),
        ({"programs": (HANGING, *OTHERS), "without_runtime": True}, {}, True),  # all of the ring is skipped
        ({"programs": (HANGING, *OTHERS), "without_runtime": True}, {"runtime": "reference"}, False),
        # Nothing of ours runs runc.
        ({"programs": (WORKING, Program("runc", "/usr/bin/runc", problem="exit status 1"), *OTHERS)}, {}, True),
        ({"programs": (WORKING, Program("mkfs.erofs", "/bin/mkfs.erofs", problem="exit status 1"))}, {}, False),
    ],
)
def test_what_is_broken_counts_and_what_is_absent_does_not(
    settings: Settings, changes: dict[str, Any], given: dict[str, str], works: bool
) -> None:
    system = attrs.evolve(SYSTEM, **changes)
    report = examine(containerd.CHECKS, system, settings, demands(loaded(**given), system))
    assert report.works is works


def test_a_containerd_that_does_not_start_is_told(settings: Settings) -> None:
    system = attrs.evolve(SYSTEM, programs=(WORKING,), containerd_problem=STUCK)
    row = rows_of(examine(containerd.CHECKS, system, settings, demands(loaded(), system)))["containerd"]
    assert (row.status, row.found) == (Status.MISSING, STUCK)
    assert row.cure == "mend it, or leave out what needs it: kvtest run -k 'not containerd'"


GIB = 1 << 30


@pytest.mark.parametrize(
    ("memory", "programs", "status", "found"),
    [
        (4 * GIB, OTHERS, "ok", "4096 MiB of memory available, 3072 MiB needed; mkfs.erofs is there"),
        (None, OTHERS, "ok", "memory unknown, 3072 MiB needed; mkfs.erofs is there"),
        (3 * GIB - 1, OTHERS, "not needed", "3071 MiB of memory available, a lab host takes 3072 MiB"),
        (4 * GIB, (), "not needed", "no mkfs.erofs, which makes their disks"),
        (
            2 * GIB,
            (Program("mkfs.erofs", "/bin/mkfs.erofs", problem="exit status 1"),),
            "not needed",
            "2048 MiB of memory available, a lab host takes 3072 MiB; "
            "/bin/mkfs.erofs: exit status 1, which makes their disks",
        ),
    ],
)
def test_lab_hosts_are_no_part_of_the_verdict(
    settings: Settings, memory: int | None, programs: tuple[Program, ...], status: str, found: str
) -> None:
    system = attrs.evolve(SYSTEM, room=Room(memory), programs=programs)
    for given in {}, {"runtime": "reference"}:
        report = examine(lab.CHECKS, system, settings, demands(loaded(**given), system))
        (row,) = report.findings
        assert (row.status, row.found, row.needed_by) == (status, found, (Need.LAB,))
        assert report.works
        assert row.cure is not None or status == "ok"


@pytest.mark.parametrize(
    "name", ["vmware-4.15", "hyper-v-5.4", "old-4.4", "no-module-5.15", "kata-1.1", "kata-3.29-drop-ins"]
)
def test_no_machine_is_too_strange(machine: Machine, settings: Settings, name: str) -> None:
    system = machine(name)
    report = examine(CHECKS, system, settings, demands(loaded(), system))
    assert [row.found for row in report.findings if "could not be checked" in row.found] == []
    assert all(row.cure for row in report.findings if row.status is Status.MISSING)


def test_only_what_is_wrong_is_mended(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    wrong = Finding("it", "seen", Status.NOT_NEEDED, fix=("touch", str(one)))
    right = attrs.evolve(wrong, status=Status.OK, fix=("touch", str(two)))
    assert mend(Report((wrong, wrong, right)), root=True) == (f"touch {one}: done",)
    assert one.exists()
    assert not two.exists()


@pytest.fixture
def without_module(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make this a machine that has the module and has not loaded it, whose modprobe does what it is told to."""
    loaded_there = tmp_path / "loaded"

    def make(modprobe: str, *, root: bool = True) -> None:
        (tmp_path / "modprobe").write_text(f"#!/bin/sh\n{modprobe}\n")
        (tmp_path / "modprobe").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

        def gathered(_settings: Settings) -> System:
            there = loaded_there.exists()
            modules = KernelModules(("vhost_vsock",) if there else (), available=("vhost_vsock",))
            return System("6.1", root=root, modules=modules, vhost_vsock=Device(there))

        monkeypatch.setattr("kvtest.doctor.examination.gather", gathered)

    return make


def rows_of(report: Report) -> dict[str, Finding]:
    return {row.check: row for row in report.findings}


def test_a_module_is_loaded_and_everything_looked_at_again(without_module: Callable[..., None], tmp_path: Path) -> None:
    without_module(f'[ "$*" = "-i vhost_vsock" ] && touch {tmp_path}/loaded')
    before = rows_of(examination(loaded()))
    assert (before["vhost_vsock"].found, before["/dev/vhost-vsock"].found) == ("not loaded", "not there")
    report = examination(loaded(), fix=True)
    assert report.done == ("modprobe -i vhost_vsock: done",)
    after = rows_of(report)
    assert (after["vhost_vsock"].found, after["/dev/vhost-vsock"].status) == ("loaded", Status.OK)
    assert examination(loaded(), fix=True).done == ()


def test_a_module_that_cannot_be_loaded_is_told_with_the_words_of_modprobe(
    without_module: Callable[..., None],
) -> None:
    without_module("echo 'modprobe: ERROR: Exec format error' >&2; exit 1")
    report = examination(loaded(), fix=True)
    assert report.done == ("modprobe -i vhost_vsock failed: modprobe: ERROR: Exec format error",)
    assert rows_of(report)["vhost_vsock"].found == "not loaded"


def test_without_root_it_is_told_what_that_would_do(without_module: Callable[..., None], tmp_path: Path) -> None:
    without_module(f"touch {tmp_path}/loaded", root=False)
    report = examination(loaded(), fix=True)
    assert report.done == ("modprobe -i vhost_vsock: not done, it needs root",)
    assert not (tmp_path / "loaded").exists()


def test_what_cannot_be_mended_is_told() -> None:
    failing = Finding("it", "seen", Status.MISSING, fix=("sh", "-c", "echo FATAL: no such module >&2; exit 1"))
    absent = Finding("it", "seen", Status.MISSING, fix=("no-such-program",))
    first, second = mend(Report((failing, absent)), root=True)
    assert first.endswith("failed: FATAL: no such module")
    assert second.startswith("no-such-program failed: ")
