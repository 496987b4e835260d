# SPDX-License-Identifier: Apache-2.0
"""What became of the requirements: in the summary of a run, its exit status, and ``kvtest report``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kvtest.settings import Settings
from tests.integration.test_cli import kvtest

VENDOR = """
[document.spec]
title = "A specification"
url = "https://spec.example"
[area.ACME]
rings = ["runtime"]
[[requirement]]
id = "ACME-MUST-001"
level = "MUST"
statement = "It holds."
source = [{ document = "spec", section = "1" }]
[[requirement]]
id = "ACME-SHOULD-001"
level = "SHOULD"
statement = "It holds as well."
source = [{ document = "spec", section = "2" }]
[retired]
ACME-MUST-002 = "it made no sense"
"""
# None of these needs a guest.
SUITE = """
import os, subprocess, pytest
from kvtest import requirement

def on(name):
    return name in os.environ.get("ON", "").split()

@requirement("ACME-MUST-001")
@pytest.mark.parametrize("number", [1, 2])
def test_must(artifacts, number):
    assert not on("must") or number == 1

@requirement("ACME-SHOULD-001")
def test_should(artifacts):
    assert not on("should")

@requirement("ACME-SHOULD-001")
def test_leak(artifacts):
    if on("leak"):
        subprocess.Popen(["sleep", "30"])
    assert not on("leak-and-fail")

@requirement("ACME-MUST-001")
def test_kill(artifacts):
    if on("kill"):
        os.kill(os.getpid(), 9)

@requirement("VSOCK-CID-001")
def test_vsock(vsock): pass

@requirement("SERIAL-NAME-001")
@pytest.mark.capability("kvm")
def test_serial(serial): pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "promises").mkdir()
    (tmp_path / "promises/acme.toml").write_text(VENDOR)
    (tmp_path / "kvtest.toml").write_text(
        'requirements = ["promises"]\ntransport = ["virtio-serial"]\naccelerator = "tcg"\ncensus_timeout = 0.3\n'
    )
    (tmp_path / "test_acme.py").write_text(SUITE)
    return tmp_path


Run = subprocess.CompletedProcess[str]


def run(settings: Settings, project: Path, on: str, *arguments: str, code: int, workers: int = 0) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ON", on)
        return kvtest(settings, "run", "test_acme.py", "-n", str(workers), *arguments, cwd=project, code=code)


def rows(settings: Settings, project: Path, *, code: int) -> dict[str, Any]:
    table = json.loads(kvtest(settings, "report", "--json", cwd=project, code=code).stdout)
    assert table["status"] == code
    return {row["id"]: (row["status"], row["reason"]) for row in table["requirements"]}


@pytest.mark.parametrize("workers", [0, 2])
def test_every_requirement_has_a_verdict(settings: Settings, project: Path, workers: int) -> None:
    said = run(settings, project, "must", "-k", "not leak", code=1, workers=workers).stdout
    assert "violated: ACME-MUST-001 (MUST, 1 test)" in said
    found = rows(settings, project, code=1)
    counts = Counter(status for status, _ in found.values())
    assert (counts["met"], counts["violated"]) == (1, 1)
    assert f"requirements: 1 met, 1 violated, {counts['not applicable']} not applicable" in said
    assert found["ACME-MUST-001"][0] == "violated"
    assert found["ACME-SHOULD-001"] == ("met", "")
    assert found["VSOCK-CID-001"] == (
        "not applicable",
        "transport vhost-user-vsock was not selected; transport vhost-vsock was not selected",
    )
    assert found["SERIAL-NAME-001"][0] == "not applicable"
    assert found["SERIAL-NAME-001"][1].startswith("capability 'kvm' is missing: guests run under tcg: asked for")
    assert found["SERIAL-DATA-001"] == ("not tested", "no test of it was selected")


def test_what_was_left_out_is_not_tested(settings: Settings, project: Path) -> None:
    run(settings, project, "", "-k", "must", code=0)
    found = rows(settings, project, code=0)
    assert found["ACME-MUST-001"] == ("met", "")
    assert found["ACME-SHOULD-001"] == ("not tested", "left out by -k 'must'")


@pytest.mark.parametrize(
    ("on", "code", "should"),
    [
        ("should", 0, "violated"),
        ("should must", 1, "violated"),
        ("leak", 1, "not tested"),
        ("leak leak-and-fail", 1, "violated"),
    ],
)
def test_the_exit_status_follows_what_is_binding(
    settings: Settings, project: Path, on: str, code: int, should: str
) -> None:
    said = run(settings, project, on, code=code).stdout
    assert ("violated: ACME-SHOULD-001 (SHOULD, 1 test)" in said) == (should == "violated")
    assert rows(settings, project, code=code)["ACME-SHOULD-001"][0] == should


@pytest.mark.parametrize("on", ["kill", "kill must"])
def test_a_run_that_was_killed_is_reported_as_far_as_it_came(settings: Settings, project: Path, on: str) -> None:
    run(settings, project, on, code=-9)
    status = 1 if "must" in on else 2
    found = rows(settings, project, code=status)
    killed = ("not tested", "the run ended before test_acme.py::test_kill")
    assert found["ACME-MUST-001"][0] == "violated" if "must" in on else found["ACME-MUST-001"] == killed
    assert found["ACME-SHOULD-001"] == ("met", "")
    report = kvtest(settings, "report", "kvtest-results", cwd=project, code=status)
    assert "The run is incomplete" in report.stderr
    assert "the run was interrupted" in report.stdout


def test_a_worker_that_crashes_leaves_its_requirement_untested(settings: Settings, project: Path) -> None:
    run(settings, project, "kill", code=2, workers=2)
    found = rows(settings, project, code=2)
    assert found["ACME-MUST-001"][0] == "not tested"
    assert found["ACME-SHOULD-001"] == ("met", "")


def test_stopping_at_the_first_failure_of_workers_is_a_violation(settings: Settings, project: Path) -> None:
    run(settings, project, "must", "-x", code=1, workers=2)


def test_the_table_and_the_page(settings: Settings, project: Path) -> None:
    run(settings, project, "must", code=1)
    table = kvtest(settings, "report", cwd=project, code=1).stdout.splitlines()
    (line,) = [line.split() for line in table if line.startswith("ACME-MUST-001")]
    assert line[1:6] == ["MUST", "violated", "3", "of", "3"]
    assert "test_acme.py::test_must[2]:" in line
    page = kvtest(settings, "report", "--markdown", "kvtest-results/results.jsonl", cwd=project, code=1).stdout
    assert "- ❌ **ACME-MUST-001** (MUST): It holds." in page
    assert "| ACME-SHOULD-001 | SHOULD | ✅ met | 2 of 2 | It holds as well. |" in page


def test_a_retired_requirement_is_named_with_its_reason(settings: Settings, project: Path) -> None:
    (project / "test_acme.py").write_text(SUITE.replace('"ACME-MUST-001"', '"ACME-MUST-002"'))
    said = run(settings, project, "", code=2).stderr
    assert "the requirement ACME-MUST-002 is retired: it made no sense" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "cannot read the results nowhere: No such file or directory"),
        (["promises"], "there are no results in promises: no results.jsonl"),
        (["kvtest.toml"], "kvtest.toml:1: not a line of JSON"),
        (["--json", "--markdown"], "--json and --markdown exclude each other"),
        ([], "there are no results in"),
    ],
)
def test_what_cannot_be_reported(settings: Settings, project: Path, arguments: list[str], message: str) -> None:
    (project / "kvtest-results").mkdir()
    result = kvtest(settings, "report", *arguments, cwd=project, code=2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_wrong_requirements_of_a_vendor_are_one_message(settings: Settings, project: Path) -> None:
    (project / "promises/more.toml").write_text(VENDOR)
    said = run(settings, project, "", code=2).stderr
    assert "more.toml: the requirement ACME-MUST-001 is already in" in said


def test_help_tells_the_exit_statuses(settings: Settings, tmp_path: Path) -> None:
    for command in ("run", "report"):
        said = " ".join(kvtest(settings, command, "--help", cwd=tmp_path).stdout.split())
        assert "a violated SHOULD or MAY is reported and does not count" in said


def test_a_full_disk_ends_the_run_with_one_message(tmp_path: Path) -> None:
    test = '@pytest.mark.parametrize("n", range(40))\ndef test_much(artifacts, n):\n    print("x" * 40000)\n'
    (tmp_path / "test_own.py").write_text(f"import pytest\n\n{test}")
    small = tmp_path / "small"
    small.mkdir()
    within = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size=600k none {small} && exec "$@"', "sh"]
    if subprocess.run([*within, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    command = [*within, sys.executable, "-m", "kvtest", "run", "test_own.py", "-n", "0", f"--results={small}/results"]
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert completed.returncode == 2, completed.stdout + completed.stderr
    assert f"cannot write results to {small}/results/results.jsonl: No space left on device" in completed.stdout
    assert "Traceback" not in completed.stdout + completed.stderr
    assert " passed in " in completed.stdout
    assert "the run was interrupted" in completed.stdout
