# SPDX-License-Identifier: Apache-2.0
"""The plugin as a user's project sees it: pytest in a process of its own, with real guests where there are guests."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from kvtest.settings import Settings

PASSES = """
import pytest
from kvtest import requirement

@requirement("VSOCK-DIRECTION-001")
@pytest.mark.parametrize("count", [1, 2])
def test_vsock(guest, vsock, count, artifacts):
    (artifacts / "note").write_text("kept")
    assert guest.run(["uname", "-s"]).text == "Linux"

def test_plain():
    pass
"""
FAILS = """
import pytest
from kvtest import requirement

@requirement("VSOCK-CID-001")
def test_fails(guest, vsock):
    guest.run(["sh", "-c", "echo said by the guest >/dev/console"]).check()
    assert guest.cid == 99

@pytest.mark.guest(fresh=True)
def test_panics(guest):
    guest.write_file("/proc/sysrq-trigger", b"c")
    guest.run(["true"])
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini("[pytest]\n")
    return pytester


def run(project: pytest.Pytester, settings: Settings, *arguments: str) -> pytest.RunResult:
    return project.runpytest_subprocess(
        "-p", "no:cacheprovider", f"--kvtest-cache={settings.cache}", *arguments, timeout=300
    )


def names(project: pytest.Pytester) -> list[str]:
    root = ET.parse(project.path / "kvtest-results/junit.xml").getroot()
    return sorted(f"{case.get('classname')}::{case.get('name')}" for case in root.iter("testcase"))


def test_a_users_suite_with_and_without_workers(project: pytest.Pytester, settings: Settings) -> None:
    project.makepyfile(test_mine=PASSES)
    expected = [
        "test_mine::test_plain",
        "test_mine::test_vsock[vhost-user-vsock-1]",
        "test_mine::test_vsock[vhost-user-vsock-2]",
    ]
    for workers in ("0", "2"):
        result = run(project, settings, "-n", workers)
        result.assert_outcomes(passed=3)
        result.stdout.fnmatch_lines(["*kvtest: cache = *--kvtest-cache*", "*3 passed*", "report: *junit.xml"])
        assert names(project) == expected
    root = ET.parse(project.path / "kvtest-results/junit.xml").getroot()
    told = next(root.iter("system-out")).text or ""
    for name in ("requirement=VSOCK-DIRECTION-001", "transport=vhost-user-vsock", "guest_kernel=", "host_kernel="):
        assert f"[[PROPERTY|{name}" in told
    artifacts = project.path / "kvtest-results/artifacts/test_mine-test_vsock-vhost-user-vsock-1"
    assert (artifacts / "note").read_text() == "kept"
    assert (artifacts / "guest/qemu.sh").exists()
    lines = (project.path / "kvtest-results/results.jsonl").read_text().splitlines()
    assert all(json.loads(line) for line in lines)


def test_what_a_failure_tells(project: pytest.Pytester, settings: Settings) -> None:
    project.makepyfile(test_mine=FAILS)
    result = run(project, settings)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "first cause: AssertionError: assert 3 == 99*",
            "violated: VSOCK-CID-001 (MUST): *",
            "*source: *",
            "artifacts: *test_mine-test_fails-vhost-user-vsock",
            "reproduce: kvtest run 'test_mine.py::test_fails[[]vhost-user-vsock[]]'",
            "first cause: the guest panicked: sysrq triggered crash",
        ]
    )
    artifacts = project.path / "kvtest-results/artifacts"
    assert "said by the guest" in (artifacts / "test_mine-test_fails-vhost-user-vsock/console.log").read_text()
    assert "Kernel panic" in (artifacts / "test_mine-test_panics/console.log").read_text()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('@kvtest.requirement("VSOCK-CID-01")', "unknown requirement 'VSOCK-CID-01'*did you mean 'VSOCK-CID-001'?"),
        ("@pytest.mark.guest(memry=1)", "a guest has no 'memry'*did you mean 'memory'?"),
        ("@pytest.mark.requirement()", "test_x*requirement needs IDs"),
        ("@pytest.mark.guest(cpus=0)", "test_x*cpus=0: it is a number of at least 1"),
        ("@pytest.mark.guest(cpus=500)", "test_x*cpus=500: it is a number of at most 255"),
        (
            '@pytest.mark.guest(serial_ports=["a", "b" * 101])',
            "test_x*: a name of a port is up to 100 printable ASCII characters",
        ),
        ('@pytest.mark.guest(serial_ports="abc")', "test_x*serial_ports='abc': it is a list of strings"),
        ('@pytest.mark.guest(kernel="nope")', "test_x*unknown guest kernel 'nope'"),
        ('@pytest.mark.capability("kwm")', "unknown capability 'kwm'*did you mean 'kvm'?"),
    ],
)
def test_wrong_markers_are_usage_errors(project: pytest.Pytester, body: str, message: str) -> None:
    project.makepyfile(f"import kvtest, pytest\n{body}\ndef test_x(artifacts): pass\n")
    result = project.runpytest_subprocess("-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    for part in message.split("*"):
        assert part in result.stderr.str()


def test_a_missing_capability_is_a_skip_with_its_cure(
    project: pytest.Pytester, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makepyfile('import pytest\n@pytest.mark.capability("kvm")\ndef test_x(): pass\n')
    result = run(project, settings, "--kvtest-accelerator=tcg", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*capability 'kvm' is missing: guests run under tcg: asked for"])


def test_settings_by_ini_and_environment(
    project: pytest.Pytester, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makeini("[pytest]\nkvtest_memory = 200\nkvtest_cpus = 2\n")
    project.makepyfile("def test_x(guest): assert guest.vm.configuration.memory == 200\n")
    monkeypatch.setenv("KVTEST_CPUS", "1")
    result = run(project, settings)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*memory = 200*kvtest_memory*", "*cpus = 1*KVTEST_CPUS*"])
    monkeypatch.setenv("KVTEST_MEMORI", "1")
    result = run(project, settings)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*KVTEST_MEMORI*", "*KVTEST_MEMORY*"])


def test_a_transport_that_is_not_asked_for_is_left_out(project: pytest.Pytester, settings: Settings) -> None:
    project.makepyfile("def test_a(guest, vsock): pass\ndef test_b(guest, serial): pass\n")
    result = run(project, settings, "--kvtest-transport=virtio-serial", "--co", "-q")
    result.stdout.fnmatch_lines(["*test_b[[]virtio-serial[]]", "*1/3 tests collected (2 deselected)*"])


def test_a_machine_that_is_unfit_is_one_message(project: pytest.Pytester, settings: Settings) -> None:
    project.makepyfile("def test_a(guest): pass\ndef test_b(guest): pass\n")
    result = run(project, settings, "--kvtest-qemu=no-such-qemu")
    result.assert_outcomes(errors=2)
    text = result.stdout.str()
    assert "QEMU (no-such-qemu) was not found" in text
    assert "apt-get install qemu-system-x86" in text
    assert "Traceback" not in text
    assert "shutil.which" not in text


def test_an_unrelated_project_is_left_alone(project: pytest.Pytester) -> None:
    project.makepyfile("def test_x(): pass\n")
    result = project.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    assert "kvtest:" not in result.stdout.str()
    assert not (project.path / "kvtest-results").exists()


def test_the_plugin_imports_nothing_heavy(project: pytest.Pytester) -> None:
    project.makepyfile("def test_x(): pass\n")
    command = (
        "import sys, pytest; pytest.main(['--co', '-q', '-p', 'no:cacheprovider', '-p', 'no:xdist']);"
        "print(sorted({'asyncio', 'paramiko', 'qemu', 'typer', 'rich', 'google', 'filelock'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert result.stdout.splitlines()[-1] == "[]"


OWN_FIXTURES = """
import pytest

@pytest.fixture(params=["a", "b"])
def vsock(request): return request.param

@pytest.fixture
def serial(): return 115200

@pytest.fixture
def artifacts(tmp_path): return tmp_path

def test_vsock(vsock): assert vsock in "ab"
def test_serial(serial): assert serial == 115200
def test_artifacts(artifacts): assert artifacts.is_dir()
"""


def test_a_project_may_have_fixtures_of_the_same_names(project: pytest.Pytester) -> None:
    project.makepyfile(OWN_FIXTURES)
    result = project.runpytest_subprocess("-p", "no:cacheprovider", "-v")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*::test_vsock?a?*", "*::test_serial PASSED*"])
    assert not (project.path / "kvtest-results").exists()


def test_a_variable_that_is_no_setting_does_not_stop_others(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVTEST_NO_SUCH", "1")
    project.makepyfile("def test_x(): pass\n")
    project.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_a_wrong_marker_is_told_by_workers_too(project: pytest.Pytester) -> None:
    project.makepyfile('from kvtest import requirement\n@requirement("VSOCK-CLOSE-999")\ndef test_x(guest): pass\n')
    result = project.runpytest_subprocess("-p", "no:cacheprovider", "-n", "1")
    result.assert_outcomes(errors=1)
    assert "unknown requirement 'VSOCK-CLOSE-999'" in result.stdout.str()


def test_each_test_has_artifacts_of_its_own(project: pytest.Pytester) -> None:
    project.makepyfile(
        "import pytest\n"
        "@pytest.mark.parametrize('name', ['a/b', 'a-b', 'a:b', 'a b'])\n"
        "def test_x(artifacts, name): (artifacts / 'note').write_text(name)\n"
    )
    project.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=4)
    notes = [path.read_text() for path in (project.path / "kvtest-results/artifacts").glob("*/note")]
    assert sorted(notes) == ["a b", "a-b", "a/b", "a:b"]


def test_what_a_guest_printed_does_not_drive_the_terminal(project: pytest.Pytester, settings: Settings) -> None:
    project.makepyfile(r"def test_x(guest): assert guest.run(['printf', '\\033[2Jred\\nx']).text == 'y'" + "\n")
    result = run(project, settings)
    result.assert_outcomes(failed=1)
    assert "red" in result.stdout.str()
    assert "\x1b[2J" not in result.stdout.str()


def test_a_test_that_ends_pytest_is_no_success(project: pytest.Pytester, settings: Settings) -> None:
    project.makepyfile(test_exit="import os\ndef test_exit(artifacts): os._exit(0)\n")
    result = run(project, settings, "-n0")
    assert result.ret == 2
    result.stderr.fnmatch_lines("kvtest: a test has ended pytest itself with os._exit(): this run is incomplete")


def test_a_child_that_comes_back_from_a_test_reports_nothing(project: pytest.Pytester, settings: Settings) -> None:
    project.makepyfile(
        test_fork="import os\n"
        "def test_fork(artifacts):\n"
        "    child = os.fork()\n"
        "    if child:\n"
        "        assert os.waitpid(child, 0)[1] != 0\n"
        "def test_after(artifacts): pass\n"
    )
    result = run(project, settings, "-n0")
    result.assert_outcomes(passed=2)
    result.stderr.fnmatch_lines("kvtest: a child that *test_fork has forked came back from the test")
    assert names(project) == ["test_fork::test_after", "test_fork::test_fork"]


def test_a_wrong_setting_is_one_message_with_workers_too(project: pytest.Pytester, settings: Settings) -> None:
    project.makepyfile(test_plain="def test_plain(artifacts): pass\n")
    result = run(project, settings, "-n2", "--kvtest-memory=abc")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("ERROR: --kvtest-memory: 'abc' is not a whole number")
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
