# SPDX-License-Identifier: Apache-2.0
"""From findings to the report and its verdict."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from kvtest.doctor import Check, Finding, Need, Report, Status, examine
from kvtest.doctor.examination import CHECKS, demands, examination, mend, with_pods
from kvtest.doctor.report import GUESTS
from kvtest.doctor.system import Device, KernelModules, System
from kvtest.errors import HostError
from kvtest.settings import LoadedSettings, Settings, load
from tests.unit.doctor.conftest import Machine

SYSTEM = System("6.1")


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
    report = examine([check(Status(status), Need(needed_by))], SYSTEM, settings, wanted, frozenset(GUESTS))
    assert [row.status for row in report.findings] == [becomes]
    assert report.works is works


def test_pods_of_the_reference_runtime_need_what_guests_need(settings: Settings) -> None:
    checks = [check(Status.OK, *GUESTS), check(Status.OK, Need.TRANSPORT), check(Status.OK, Need.KATA)]
    report = with_pods(examine(checks, SYSTEM, settings, frozenset(GUESTS), frozenset(GUESTS)))
    assert [row.needed_by for row in report.findings] == [(*GUESTS, Need.RUNTIME), (Need.TRANSPORT,), (Need.KATA,)]


def test_a_check_that_fails_is_a_row(settings: Settings) -> None:
    def refuses(_system: System, _settings: Settings) -> Iterator[Finding]:
        yield Finding("first", "seen", Status.OK)
        raise HostError("there is no room", hint="make some")

    def breaks(_system: System, _settings: Settings) -> Iterator[Finding]:
        raise PermissionError(13, "Permission denied", "/secret")

    checks = [Check("refuses", GUESTS, refuses), Check("breaks", (Need.KATA,), breaks), check(Status.OK)]
    report = examine(checks, SYSTEM, settings, frozenset(GUESTS), frozenset(GUESTS))
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
    wanted, demanded = demands(loaded(), SYSTEM)
    assert wanted == {*GUESTS, Need.RUNTIME}
    assert demanded == set(GUESTS)
    wanted, demanded = demands(loaded(), machine("kata-4.2"))
    assert wanted == {*GUESTS, Need.RUNTIME, Need.KATA, Need.VHOST_VSOCK}
    assert demanded == set(GUESTS)
    assert demands(loaded(runtime="kata"), SYSTEM)[1] == {*GUESTS, Need.RUNTIME, Need.KATA, Need.VHOST_VSOCK}
    assert demands(loaded(runtime="reference"), SYSTEM)[1] == {*GUESTS, Need.RUNTIME}


@pytest.mark.parametrize(
    "name", ["vmware-4.15", "hyper-v-5.4", "old-4.4", "no-module-5.15", "kata-1.1", "kata-3.29-drop-ins"]
)
def test_no_machine_is_too_strange(machine: Machine, settings: Settings, name: str) -> None:
    system = machine(name)
    report = examine(CHECKS, system, settings, *demands(loaded(), system))
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
