# SPDX-License-Identifier: Apache-2.0
"""What takes too long fails with evidence, and the run goes on."""

from __future__ import annotations

import re

import pytest

from kvtest.settings import Settings

SUITE = """
import threading

def wait_for_ever():
    threading.Event().wait()

def test_hangs(guest, vsock):
    process = guest.control.start_process(["sleep", "1000"])
    wait_for_ever()

def test_hangs_with_a_lock_that_the_evidence_needs(guest):
    with guest.vm._monitor_lock:
        wait_for_ever()

def test_waits_for_a_command(guest):
    guest.run(["sleep", "1001"], deadline=0.5)

def test_paused(guest):
    guest.vm.pause()
    guest.control.ping(0.5)

def test_tries_for_ever(artifacts):
    while True:
        try:
            wait_for_ever()
        except Exception:
            pass

def test_goes_on(guest):
    assert guest.run(["true"]).code == 0
"""


@pytest.fixture
def stories(pytester: pytest.Pytester, settings: Settings) -> dict[str, str]:
    """What is kept of each test that something took too long in."""
    pytester.makepyfile(test_slow=SUITE)
    result = pytester.runpytest_subprocess(
        *("-p", "no:cacheprovider", "-n0", f"--kvtest-cache={settings.cache}", "--kvtest-test-timeout=6")
    )
    result.assert_outcomes(passed=1, failed=5)
    result.stdout.fnmatch_lines(
        [
            "first cause: DeadlineExceededError: waited * s for the test to end",
            "evidence: */test_slow-test_hangs*/timeout.txt",
            "first cause: DeadlineExceededError: waited * s for *sleep*",
            "evidence: */test_slow-test_waits_for_a_command/timeout.txt",
        ]
    )
    artifacts = pytester.path / "kvtest-results/artifacts"
    return {path.parent.name: path.read_text() for path in artifacts.glob("*/timeout.txt")}


def sections(story: str) -> dict[str, str]:
    return {
        part.partition("\n")[0]: part.partition("\n")[2] for part in re.split("^--- ", story, flags=re.MULTILINE)[1:]
    }


def test_evidence(stories: dict[str, str]) -> None:
    hangs = sections(stories["test_slow-test_hangs-vhost-user-vsock"])
    assert "status: running" in hangs["QEMU's monitor"]
    assert '"command": "sleep 1000"' in hangs["control daemon"]
    assert '"state": "S"' in hangs["control daemon"]
    assert "0 connections, no fault" in hangs["vsock device"]
    assert "thread MainThread" in hangs["Python stacks of this process"]
    assert "in wait_for_ever" in hangs["Python stacks of this process"]
    waits = sections(stories["test_slow-test_waits_for_a_command"])
    assert "there is none" in waits["vsock device"]
    paused = sections(stories["test_slow-test_paused"])
    assert "status: paused" in paused["QEMU's monitor"]
    assert "for the answer to guest: State" in paused["control daemon"]
    locked = sections(stories["test_slow-test_hangs_with_a_lock_that_the_evidence_needs"])
    assert "in wait_for_ever" in locked["Python stacks of this process"]


LOOP = """
def _loop():
    while True:
        pass

# Without lines, as some instructions of the compiler's own are.
_loop.__code__ = _loop.__code__.replace(co_linetable=bytes([0xF8 | 7]) * (len(_loop.__code__.co_code) // 16 + 1))

def test_loops(artifacts):
    _loop()

def test_goes_on(artifacts):
    pass
"""


def test_an_instruction_without_a_line_is_interrupted(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_loop=LOOP)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n0", "--kvtest-test-timeout=1")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["first cause: DeadlineExceededError: waited * s for the test to end"])


ENDINGS = """
import threading
import time
import pytest
from kvtest.plugin.timeouts import suspended

@pytest.fixture
def slow_to_end(guest):
    yield
    try:
        threading.Event().wait()
    except Exception:
        pass
    threading.Event().wait()

def test_ends_slowly(slow_to_end, guest):
    guest.write_file("/tmp/old", b"")

def test_has_a_guest_of_its_own(guest):
    assert guest.run(["test", "-e", "/tmp/old"]).code == 1

def test_time_that_is_not_its_own(artifacts):
    with suspended():
        threading.Event().wait(3)
"""


def test_fixtures_that_take_too_long_to_end_twice(pytester: pytest.Pytester, settings: Settings) -> None:
    pytester.makepyfile(test_endings=ENDINGS)
    result = pytester.runpytest_subprocess(
        *("-p", "no:cacheprovider", "-n0", f"--kvtest-cache={settings.cache}", "--kvtest-test-timeout=2")
    )
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines("*waited * s for the fixtures of the test to end*")
    result.stderr.no_fnmatch_line("*Traceback*")
