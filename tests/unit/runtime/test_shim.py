# SPDX-License-Identifier: Apache-2.0
"""Programs that are no good shims: each ends in one message, with a hint."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from kvtest.deadline import Deadline
from kvtest.errors import HostError, ShimError
from kvtest.ownership import AdoptedProcess, run
from kvtest.rpc import frames
from kvtest.runtime import shim
from kvtest.runtime.installation import Installation
from kvtest.runtime.profile import load

LISTEN = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind("shim.sock")
listener.listen()
if os.fork() == 0:
    os.close(0); os.close(1); os.close(2)
    {answer}
    os._exit(0)
print("unix://" + os.path.abspath("shim.sock"), end="")
"""
# Parts of what a shim may do with its first client: read its request, wait until it has gone.
TAKE = "taken = listener.accept()[0]; taken.recv(4096)"
WAIT = "taken.recv(4096)"
UNIMPLEMENTED = frames.encode(1, frames.RESPONSE, bytes.fromhex("0a02080c"))  # a status with that code, and no message


def place_of(directory: Path, script: str, *, interpreter: str = "/bin/sh", mode: int = 0o700) -> shim.Place:
    bundle = directory / "bundle"
    bundle.mkdir()
    (bundle / "config.json").write_text("{}")
    (bundle / "log").write_text("what the shim has logged\n")
    program = directory / "containerd-shim-bad-v2"
    program.write_text(f"#!{interpreter}\n{script}\n")
    program.chmod(mode)
    installation = Installation(load("runc"), program)
    return shim.Place(installation, "kvtest", "kvtest-bad", bundle, directory / "sink", directory / "containerd")


def refused(place: shim.Place, seconds: float = 10.0) -> str:
    with pytest.raises(ShimError) as caught:
        shim.start(place, lambda: None, Deadline(seconds))
    return str(caught.value)


def test_a_shim_that_is_silent(tmp_path: Path) -> None:
    message = refused(place_of(tmp_path, "exit 0"))
    assert "containerd-shim-bad-v2: 'start' printed no address" in message
    assert "hint: it has to print the address of its socket" in message


def test_a_shim_that_talks_garbage(tmp_path: Path) -> None:
    message = refused(place_of(tmp_path, "echo usage: shim COMMAND"))
    assert "'start' printed what is no address: 'usage: shim COMMAND'" in message
    assert "hint: unix:///PATH, and nothing else" in message


def test_a_shim_that_fails(tmp_path: Path) -> None:
    message = refused(place_of(tmp_path, "echo no namespace >&2; exit 7"))
    assert "'start' ended (exit status 7); it said:\nno namespace\nwhat the shim has logged" in message
    assert "hint: run it by hand in a bundle" in message


def test_a_shim_that_hangs_in_start(tmp_path: Path) -> None:
    message = refused(place_of(tmp_path, "exec sleep 1000"), 0.3)
    assert re.search("did not come to the end of 'start' in [0-9.]+ s; it said:\nwhat the shim has logged", message)
    assert "hint: run it by hand in a bundle" in message


def test_a_shim_that_waits_for_its_input_sees_its_end(tmp_path: Path) -> None:
    message = refused(place_of(tmp_path, "cat; exit 3"))
    assert "'start' ended (exit status 3)" in message


def test_a_shim_that_ends_at_once(tmp_path: Path) -> None:
    message = refused(place_of(tmp_path, f"printf unix://{tmp_path}/nobody"))
    assert f"does not listen at {tmp_path}/nobody, which it has printed: No such file or directory" in message
    assert "what the shim has logged" in message
    assert "hint: it has ended at once" in message


@pytest.mark.parametrize(
    ("answer", "what", "seen"),
    [
        (f"{TAKE}; taken.sendall(b'HTTP/1.1 400 Bad Request'); {WAIT}", "does not answer", "does not speak ttRPC"),
        (TAKE, "does not answer", "the connection ended"),
        (f"{TAKE}; {WAIT}", "does not answer", "for the answer to"),
        (f"{TAKE}; taken.sendall({UNIMPLEMENTED!r}); {WAIT}", "refuses", "Connect: UNIMPLEMENTED, with no more words"),
    ],
    ids=["garbage", "nothing", "silence", "status"],
)
def test_a_shim_that_does_not_answer(tmp_path: Path, answer: str, what: str, seen: str) -> None:
    place = place_of(tmp_path, LISTEN.format(answer=answer), interpreter=sys.executable)
    message = refused(place, 3.0)
    assert f"{what} at {place.bundle}/shim.sock" in message
    assert seen in message
    assert "hint: is it a containerd shim v2?" in message


def test_a_shim_that_is_not_executable(tmp_path: Path) -> None:
    message = refused(place_of(tmp_path, "exit 0", mode=0o600))
    assert "could not start" in message
    assert "Permission denied" in message
    assert "hint: is " in message


def test_a_shim_of_another_machine(tmp_path: Path) -> None:
    place = place_of(tmp_path, "")
    place.installation.shim.write_bytes(b"\x7fELF" + bytes(200))
    assert "Exec format error" in refused(place)


def test_a_bundle_without_configuration(tmp_path: Path) -> None:
    place = place_of(tmp_path, "exit 0")
    (place.bundle / "config.json").unlink()
    message = refused(place)
    assert message.startswith(f"the bundle {place.bundle} has no config.json\n  hint: ")


@pytest.mark.parametrize(
    ("printed", "path"),
    [
        ("unix:///run/s/1", "/run/s/1"),
        ("/run/s/1\n", "/run/s/1"),
        ('{"version":3,"address":"unix:///run/s/1","protocol":"ttrpc"}\n', "/run/s/1"),
        ('{"version":2,"address":"/run/s/1"}', "/run/s/1"),
    ],
)
def test_addresses_come_in_several_forms(printed: str, path: str) -> None:
    assert shim.parse_address(printed, Path("shim")) == Path(path)


@pytest.mark.parametrize(
    ("printed", "seen"),
    [
        ("{", "printed JSON without an address"),
        ('{"version":3}', "printed JSON without an address"),
        ('{"version":3,"address":"unix:///s","protocol":"grpc"}', "speaks 'grpc', kvtest speaks ttrpc"),
        ('{"version":9,"address":"unix:///s"}', "speaks version 9 of the Task API"),
        ("unix://relative", "no address"),
        ("unix:///one unix:///two", "no address"),
    ],
)
def test_addresses_that_are_none(printed: str, seen: str) -> None:
    with pytest.raises(ShimError, match=seen):
        shim.parse_address(printed, Path("shim"))


def test_delete_that_says_nothing_sensible(tmp_path: Path) -> None:
    place = place_of(tmp_path, 'printf "\\377\\377\\377"')
    with pytest.raises(ShimError, match="printed no DeleteResponse"):
        shim.delete(place, Deadline(10.0))


def test_delete_that_fails_and_delete_that_hangs(tmp_path: Path) -> None:
    place = place_of(tmp_path, "test -e hang && exec sleep 1000; echo broken >&2; exit 4")
    with pytest.raises(ShimError, match=r"'delete' ended \(exit status 4\); it said:\nbroken"):
        shim.delete(place, Deadline(10.0))
    (place.bundle / "hang").touch()
    with pytest.raises(ShimError, match=r"did not come to the end of 'delete' in [0-9.]+ s"):
        shim.delete(place, Deadline(0.3))


def test_what_a_child_leaves_running_can_be_adopted() -> None:
    leave = "import os, signal\nif (pid := os.fork()): print(pid)\nelse: os.close(1); signal.pause()"
    pid = int(run([sys.executable, "-c", leave], deadline=10.0).stdout)
    with AdoptedProcess(pid) as adopted:
        assert adopted.running
        adopted.kill(signal.SIGTERM)
        assert adopted.wait(10.0) == -signal.SIGTERM
    with pytest.raises(HostError, match=f"process {pid} is not left of ours"):
        AdoptedProcess(pid)
    with pytest.raises(HostError, match="process 1 is not left of ours"):
        AdoptedProcess(1)
