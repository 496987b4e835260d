# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvtest.host.relay import Relay
from kvtest.host.ssh_address import SSHAddress

THERE = "/home/you/.cache/kvtest/remote/runs/ab12/work/kvtest-results"
PLACES = {"sites/0123/kvtest/suites": "suites", "files/4567": "my/tests", "files/89ab": ".", "files/cdef": 'a"b'}
HERE = Path('/home/me/"results"')


@pytest.fixture
def relay() -> Relay:
    address = SSHAddress.of("ssh://me@lab7", Path("/keys/my key"))
    return Relay(address.text, address.flags, THERE, HERE, PLACES)


def test_lines_are_passed_on_whole_and_in_our_words(relay: Relay) -> None:
    assert list(relay.lines(b"artifacts: /home/you/.cache/kvtest/remote/ru")) == []
    assert list(relay.lines(b"ns/ab12/work/kvtest-results/artifacts/x\nrep")) == [
        f"artifacts: {HERE}/artifacts/x\n".encode()
    ]
    assert list(relay.lines(b"roduce: kvtest run 'suites/a.py::b[1]'\n")) == [
        b"reproduce: kvtest run --host=ssh://me@lab7 '--ssh-key=/keys/my key' 'suites/a.py::b[1]'\n"
    ]
    assert list(relay.lines(b"../../../sites/0123/kvtest/suites/transport/a.py::b PASSED\nend")) == [
        b"suites/transport/a.py::b PASSED\n"
    ]
    assert relay.rest() == b"end"
    assert relay.rest() == b""


def test_what_is_the_users_own_is_told_as_it_is_here(relay: Relay) -> None:
    said = (
        b"../../../files/4567/test_a.py::test_b[1] PASSED\n"
        b"FAILED ../files/89ab/sub/test_c.py::test_d\n"
        b"kvtest run --requirements=/home/you/.cache/kvtest/remote/files/4567 '--shim=/x/files/89ab/shim'\n"
    )
    assert b"".join(relay.lines(said)) == (
        b"my/tests/test_a.py::test_b[1] PASSED\n"
        b"FAILED sub/test_c.py::test_d\n"
        b"kvtest run --requirements=my/tests '--shim=shim'\n"
    )
    test = json.dumps({"kind": "test", "details": "see\n/x/files/cdef/y\n../files/89ab/z"})
    assert json.loads(relay.results(test.encode() + b"\n"))["details"] == 'see\na"b/y\nz'


def test_results_say_which_host_it_was(relay: Relay) -> None:
    run = json.dumps({"kind": "run", "command": "there", "properties": {"results": THERE}}) + "\n"
    test = json.dumps({"kind": "test", "details": f"see {THERE}/x, reproduce: kvtest run y"}) + "\n"
    first, second = relay.results((run + test).encode()).splitlines()
    assert json.loads(first)["properties"] == {"results": str(HERE), "host": "ssh://me@lab7"}
    assert json.loads(first)["command"] != "there"
    details = json.loads(second)["details"]
    assert details == f"see {HERE}/x, reproduce: kvtest run --host=ssh://me@lab7 '--ssh-key=/keys/my key' y"


def test_texts_stay_whole_around_what_is_replaced(relay: Relay) -> None:
    text = (
        'first\n/sites/0123/kvtest/suites/a.py:25: in x\n\tsites/0123/kvtest/suites/b.py "é/sites/0123/kvtest/suites/" '
        "websites/0123/kvtest/suites/c.py"
    )
    test = {"kind": "test", "details": text, "stdout": "\ud800"}
    (line,) = relay.results(json.dumps(test).encode() + b"\n").splitlines()
    ours = 'first\nsuites/a.py:25: in x\n\tsuites/b.py "suites/" websites/0123/kvtest/suites/c.py'
    assert json.loads(line) == {**test, "details": ours}


def test_a_repeated_test_is_not_told_what_only_its_host_was() -> None:
    relay = Relay("lab", ["--host", "lab"], THERE, HERE, PLACES, ["--accelerator=kvm"])
    (line,) = relay.lines(b"reproduce: kvtest run suites/a.py::b --memory=512 --accelerator=kvm\n")
    assert line == b"reproduce: kvtest run --host lab suites/a.py::b --memory=512\n"


def test_a_command_is_quoted_as_it_has_to_be_here() -> None:
    relay = Relay("lab:6.12", ["--host=lab:6.12"], THERE, HERE, {"files/4567": "my tests"}, ["--accelerator=kvm"])
    said = b"reproduce: kvtest run ../files/4567/test_a.py::test_b --requirements=/x/files/4567/r --accelerator=kvm\n"
    assert b"".join(relay.lines(said)) == (
        b"reproduce: kvtest run --host=lab:6.12 'my tests/test_a.py::test_b' '--requirements=my tests/r'\n"
    )
    cut = b"reproduce: kvtest run '../files/4567/test_a.py\n"
    assert b"".join(relay.lines(cut)) == b"reproduce: kvtest run 'my tests/test_a.py\n"


def test_a_place_that_is_full_is_one_there(tmp_path: Path) -> None:
    relay = Relay("lab", [], "/work/results", tmp_path, {})
    said = b"kvtest: cannot write results to /work/results/results.jsonl: No space left on device\n"
    assert b"".join(relay.lines(said)) == said
