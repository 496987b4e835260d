# SPDX-License-Identifier: Apache-2.0
"""Shims that are none, or do not do their part: one message with a hint before any test, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvtest.census import Kind, Marks, survey
from kvtest.deadline import Deadline
from kvtest.errors import KvtestError, ShimError
from kvtest.ownership.owner import current_keeper
from kvtest.runtime import profile
from kvtest.runtime.installation import Installation, find_program
from kvtest.runtime.preflight import try_start
from kvtest.runtime.shim import Place, parse_address, start

ROOT = Path(__file__).parents[2]

# Listens, says where, and leaves a process that does WHAT with the connection; it ends with whoever has connected.
LISTENS = """#!{python}
import os, socket, sys
path = os.path.join(os.getcwd(), "s")
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
print("unix://" + path, end="", flush=True)
if os.fork() == 0:
    for number in range(3):
        os.close(number)
    stream, _ = listener.accept()
    {what}
    stream.settimeout(20)
    while stream.recv(4096):
        pass
"""

Program = Callable[[str], Path]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Makes a shim of a script."""

    def make(script: str) -> Path:
        path = tmp_path / "containerd-shim-test-v2"
        path.write_text(script)
        path.chmod(0o700)
        return path

    return make


def installed(shim: Path) -> Installation:
    return Installation(profile.load("runc"), shim)


def refused(shim: Path, within: float = 10.0) -> KvtestError:
    """Return what is said of a shim that cannot be started, of which nothing is left."""
    current_keeper()
    before = survey(Marks())
    with pytest.raises(ShimError) as caught:
        try_start(installed(shim), within=within)
    left = {thing for thing in survey(Marks()) - before if thing.kind is not Kind.PROCESS}
    assert left == set()
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("script", "message"),
    [
        pytest.param("#!/bin/sh\n", "'start' printed no address", id="silent"),
        pytest.param("#!/bin/sh\necho Hello, I am a shim", "printed what is no address: 'Hello, I am", id="garbage"),
        pytest.param('#!/bin/sh\nprintf "\\377\\376\\000"', "printed what is no address", id="binary"),
        pytest.param("#!/bin/sh\necho '{\"version\": 3}'", "JSON without an address", id="json"),
        pytest.param(
            "#!/bin/sh\necho no configuration >&2; exit 3", "status 3; it said:\nno configuration", id="fails"
        ),
        pytest.param("#!/bin/sh\nkill -SEGV $$", "'start' ended with status -11", id="crashes"),
        pytest.param("#!/bin/sh\nprintf unix:///run/nobody.sock", "does not listen at /run/nobody.sock", id="nobody"),
        pytest.param("#!/no/such/interpreter\n", "was not found", id="interpreter"),
        pytest.param("\x7fELF, of another machine", "Exec format error", id="machine"),
    ],
)
def test_what_start_does_wrong_is_said(program: Program, script: str, message: str) -> None:
    assert message in refused(program(script)).message


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ('{"version": 2, "address": 3}', "JSON without an address"),
        ('{"address": ', "JSON without an address"),
        ('{"version": 2, "address": "unix:///s", "protocol": "grpc"}', "speaks 'grpc', kvtest speaks ttrpc"),
        ('{"version": 9, "address": "unix:///s", "protocol": "ttrpc"}', "speaks version 9 of the Task API"),
        ("vsock://3:1024", "printed what is no address"),
    ],
)
def test_another_address_is_refused_with_an_example(printed: str, message: str) -> None:
    with pytest.raises(ShimError) as caught:
        parse_address(printed, Path("/shim"))
    assert message in caught.value.message
    assert caught.value.hint is not None
    assert "unix://" in caught.value.hint


@pytest.mark.parametrize(
    "printed",
    [
        "unix:///run/s/1",
        "/run/s/1",
        "unix:///run/s/1\n",
        '{"version": 2, "address": "unix:///run/s/1", "protocol": "ttrpc"}',
        '{"version": 3, "address": "unix:///run/s/1", "protocol": "ttrpc"}\n',
        '{"address": "unix:///run/s/1"}',
    ],
)
def test_an_address_is_taken_in_each_of_its_forms(printed: str) -> None:
    assert parse_address(printed, Path("/shim")) == Path("/run/s/1")


def test_a_shim_that_hangs_in_start_is_given_up(program: Program) -> None:
    error = refused(program("#!/bin/sh\nexec sleep 1000"), within=0.5)
    assert "did not come to the end of 'start' in 0.5 s" in error.message


def test_what_a_shim_has_logged_is_said(program: Program) -> None:
    error = refused(program("#!/bin/sh\necho out of luck >>log\nprintf unix:///run/nobody.sock"))
    assert error.message.endswith("it said:\nout of luck")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        pytest.param("stream.sendall(b'HTTP/1.1 400 Bad Request')", "the peer does not speak ttRPC", id="http"),
        pytest.param("stream.close(); sys.exit()", "the connection ended", id="hangs up"),
        pytest.param("pass", "waited 1.0 s for the answer to", id="silent"),
    ],
)
def test_who_listens_and_is_no_shim_is_found_out(program: Program, what: str, message: str) -> None:
    error = refused(program(LISTENS.format(python=sys.executable, what=what)), within=1.0)
    assert "does not answer at" in error.message
    assert message in error.message


def test_a_bundle_without_configuration_is_refused(tmp_path: Path) -> None:
    shim = find_program("containerd-shim-runc-v2")
    if shim is None:
        pytest.skip("there is no containerd-shim-runc-v2: apt-get install containerd")
    nowhere = tmp_path / "nowhere"
    place = Place(installed(Path(shim)), "kvtest", "kvtest-empty", tmp_path, nowhere, nowhere)
    with pytest.raises(ShimError, match=r"the bundle .* has no config\.json"):
        start(place, lambda: None, Deadline(5.0))
    # The runtime says so as well, where a bundle loses it: its words reach the user.
    completed = place.run(("start",), Deadline(5.0))
    assert completed.status != 0
    assert "config.json" in completed.stdout + completed.stderr


# --- As a user sees it


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kvtest", "run", "runtime", "-k", "test_a_shim_tells", "-n", "0", *arguments]
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("KVTEST_", "PYTEST"))}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="without root there is another message: run it with sudo")
@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--shim", "./missing"], "missing, the shim of runc", "--shim takes the path of one"),
        (["--shim", "no-such-shim"], "there is no no-such-shim, the shim of runc", "--shim takes the path of one"),
        (["--shim", "./data"], "is not a program", "chmod +x"),
        (["--shim", "./fails"], "'start' ended with status 4; it said:\nsorry", "run it by hand"),
        (["--runtime", "runcc"], "unknown runtime 'runcc'", "did you mean 'runc'?"),
        (["--runtime", "./profile.toml"], "unknown key 'cleanup_bund'", "did you mean 'cleanup_bound'?"),
        (["--runtime", "./none.toml"], "cannot read the profile", ""),
        (["--runtime", "kata"], "there is no containerd-shim-kata-v2", "install Kata Containers"),
        (["--runtime-config", "./none.toml"], "none.toml", "--runtime-config takes a file"),
    ],
)
def test_what_was_asked_for_and_is_not_there_is_one_message(
    tmp_path: Path, arguments: list[str], message: str, hint: str
) -> None:
    if arguments[1] == "kata" and find_program("containerd-shim-kata-v2"):
        pytest.skip("Kata Containers are installed here")
    (tmp_path / "data").write_text("no program")
    (tmp_path / "fails").write_text("#!/bin/sh\necho sorry >&2\nexit 4\n")
    (tmp_path / "fails").chmod(0o700)
    (tmp_path / "profile.toml").write_text(
        'description = "x"\nshim = "x"\nruntime = "x"\ncure = "x"\ncleanup_bund = 3\n'
    )
    completed = run(tmp_path, *arguments)
    said = completed.stdout + completed.stderr
    assert completed.returncode == 2, said
    assert message in said
    assert hint in said
    assert "Traceback" not in said
    assert said.count(message) == 1, "it is one message"
    assert "test session starts" not in said


def test_a_default_runtime_that_is_not_there_is_skipped_with_the_cure(tmp_path: Path) -> None:
    """Whoever has not asked for it gets the other rings, and is told how to get this one."""
    script = (
        "import kvtest.runtime.installation as i, kvtest.cli, sys\n"
        "i.find_program = lambda name: None\n"
        "sys.argv = ['kvtest', 'run', 'runtime', '-k', 'test_a_shim_tells', '-n', '0']\n"
        "kvtest.cli.main()\n"
    )
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("KVTEST_", "PYTEST"))}
    completed = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    said = completed.stdout + completed.stderr
    assert completed.returncode == 0, said
    assert "1 skipped" in said
    missing = "not root, which shims need: run it with sudo" if os.geteuid() else "apt-get install"
    assert missing in said
