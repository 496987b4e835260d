# SPDX-License-Identifier: Apache-2.0
"""Runs with several guest kernels, as a user's project sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kvtest.settings import Settings

KERNELS = ("6.1", "6.12")
SUITE = """
import pytest
from kvtest import requirement

@requirement("VSOCK-CID-001")
def test_vsock(guest, vsock): pass

@requirement("VSOCK-DIRECTION-001")
@pytest.mark.guest(scope="module")
def test_shared(guest): pass

@pytest.mark.guest(scope="module")
def test_shared_too(guest, guest_kernel): pass

@pytest.mark.guest(kernel="6.1")
def test_own(guest): pass

@pytest.mark.guest(image="agent", serial_ports=["agent.channel.0"])
def test_agent(endpoint): pass

def test_plain(): pass
"""
# One promise that is broken with the older kernel only.
DIFFERS = """
from kvtest import requirement

@requirement("VSOCK-CID-001")
def test_differs(guest, guest_kernel):
    assert guest.release.startswith(guest_kernel)
    assert guest_kernel == "6.12"

@requirement("VSOCK-DIRECTION-001")
def test_alike(guest):
    assert guest.run(["uname", "-s"]).text == "Linux"
"""


def collected(project: pytest.Pytester, *arguments: str) -> list[str]:
    result = project.runpytest_subprocess("--collect-only", "-q", "-p", "no:cacheprovider", *arguments)
    assert result.ret == 0, result.outlines
    return [line.partition("::")[2] for line in result.outlines if "::" in line]


def test_each_test_is_there_with_each_kernel(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(SUITE)
    assert collected(pytester, "--kvtest-guest-kernel=6.1,6.12") == [
        *(f"test_vsock[vhost-user-vsock-{kernel}]" for kernel in KERNELS[:1]),
        "test_shared[6.1]",
        "test_shared_too[6.1]",
        "test_agent[vhost-user-vsock-6.1]",
        "test_vsock[vhost-user-vsock-6.12]",
        "test_shared[6.12]",
        "test_shared_too[6.12]",
        "test_agent[vhost-user-vsock-6.12]",
        "test_own",
        "test_plain",
    ]
    one = ["test_vsock[vhost-user-vsock]", "test_shared", "test_shared_too", "test_own", "test_agent[vhost-user-vsock]"]
    for flags in ([], ["--kvtest-guest-kernel=6.1"], ["--kvtest-guest-kernel=6.1,6.1"]):
        assert collected(pytester, *flags) == [*one, "test_plain"]
    elsewhere = collected(pytester, "--kvtest-guest-kernel=6.1,6.12", "--kvtest-agent-address=unix:///nowhere")
    assert "test_agent[vhost-user-vsock]" in elsewhere


def test_a_kernel_that_nobody_knows(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess("--kvtest-guest-kernel=6.12,6.13")
    result.stderr.fnmatch_lines(["ERROR: *unknown guest kernel '6.13'*"])


def test_what_a_kernel_breaks_is_told(tmp_path: Path, settings: Settings) -> None:
    file = tmp_path / "test_mine.py"
    file.write_text(DIFFERS)
    command = [sys.executable, "-m", "kvtest", "run", str(file), "--guest-kernel", "6.1", "--guest-kernel", "6.12"]
    command += ["-n", "2", "--cache", str(settings.cache), "--results", str(tmp_path / "results")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "differs: VSOCK-CID-001: violated with 6.1; met with 6.12\n" in done.stdout
    assert "with 6.1, 6.12: alike in 1 of 2 requirements\n" in done.stdout
    assert "--guest-kernel=6.1,6.12" in done.stdout  # how to reproduce it
    lines = (tmp_path / "results/results.jsonl").read_text().splitlines()
    tests = [line for line in map(json.loads, lines) if line["kind"] == "test"]
    assert {test["id"].partition("::")[2]: test["outcome"] for test in tests} == {
        "test_differs[6.1]": "failed",
        "test_differs[6.12]": "passed",
        "test_alike[6.1]": "passed",
        "test_alike[6.12]": "passed",
    }
    for test in tests:
        assert test["properties"]["guest_kernel"].startswith(test["id"].partition("[")[2].rstrip("]") + ".")
    report = [sys.executable, "-m", "kvtest", "report", str(tmp_path / "results")]
    shown = subprocess.run(report, capture_output=True, text=True, check=False).stdout
    assert ["VSOCK-CID-001", "violated", "met"] in [line.split() for line in shown.splitlines()]
