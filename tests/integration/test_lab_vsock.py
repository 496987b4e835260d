# SPDX-License-Identifier: Apache-2.0
"""The vhost-vsock of a lab host in its reports: what was sent over it, what is left of it, and that it is missing."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from kvtest.host.lab import BASE, Lab
from kvtest.host.parcels import of_tests
from kvtest.report import Outcome, Results
from kvtest.settings import Settings

SUITE = """
import subprocess

import pytest
from kvtest.peers import echo, receive_exactly
from kvtest.transport import Transport

pytestmark = pytest.mark.parametrize("vsock", [Transport.VHOST_VSOCK], ids=str, indirect=True)

def talk(client, word):
    client.sendall(word)
    assert receive_exactly(client, len(word)) == word

@pytest.mark.requirement("VSOCK-DIRECTION-001")
def test_fails(guest, vsock, word):
    with guest.serve(echo) as service, vsock.connect(service.port) as client:
        talk(client, word)
        assert "this" == "that"

def test_passes(guest, vsock, word):
    with guest.serve(echo) as service, vsock.connect(service.port) as client:
        talk(client, word)

def test_leaves_a_socket(guest, vsock, word):
    with guest.serve(echo) as service, vsock.connect(service.port) as client:
        talk(client, word)
        # A process that nobody knows as ours has it: it has left pytest's, and its environment is empty.
        command = "sleep 1000 >/dev/null 2>&1 </dev/null & echo $! >/work/left"
        subprocess.run(["/bin/sh", "-c", command], env={}, check=True, pass_fds=[client.fileno()])
"""
BESIDE = """
import pytest

@pytest.fixture
def word():
    return b"a word"
"""
PAYLOAD = 4  # AF_VSOCK_OP_PAYLOAD, linux/vsockmon.h


@pytest.fixture(scope="module")
def lab(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("lab")
    with Lab("lab", attrs.evolve(settings, results=directory), None, directory / "host") as lab:
        yield lab


def test_what_a_failed_test_of_ones_own_sent_and_what_another_left_is_there(lab: Lab, tmp_path: Path) -> None:
    mine = tmp_path / "mine/test_mine.py"
    mine.parent.mkdir()
    mine.write_text(SUITE)
    (mine.parent / "conftest.py").write_text(BESIDE)
    tests = of_tests([mine])
    lab.bring([tests])
    said: list[bytes] = []
    lab._results = tmp_path
    assert lab.run([tests.there(mine, BASE)], ["--census-timeout=1"], said.append) == 1
    lab.fetch(tmp_path)
    lab._guest.run(["sh", "-c", "kill $(cat /work/left)"]).check()

    found = {
        test.id.partition("::")[2].partition("[")[0]: test for test in Results.read(tmp_path / "results.jsonl").tests
    }
    assert found["test_fails"].outcome is Outcome.FAILED
    assert found["test_passes"].outcome is Outcome.PASSED
    assert found["test_leaves_a_socket"].outcome is Outcome.FAILED
    assert "left behind" in found["test_leaves_a_socket"].message
    assert "vsock-socket" in found["test_leaves_a_socket"].message
    again = f"reproduce: kvtest run --host lab '{os.path.relpath(mine)}::test_fails[vhost-vsock]'"
    assert again in b"".join(said).decode()

    (capture,) = (tmp_path / "artifacts").glob("*test_fails*/vsock.pcap")
    sent = [data for operation, data in packets(capture.read_bytes()) if operation == PAYLOAD]
    assert sent == [b"a word", b"a word"]  # there and back
    assert not list((tmp_path / "artifacts").glob("*test_passes*/vsock.pcap"))


def packets(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield operation and content of the packets of a capture."""
    magic, _, _, _, _, _, link = struct.unpack_from("<IHHiIII", content)
    assert (magic, link) == (0xA1B23C4D, 271)
    position = 24
    while position < len(content):
        _, _, captured, _ = struct.unpack_from("<IIII", content, position)
        data = content[position + 16 : position + 16 + captured]
        operation, _, header = struct.unpack_from("<HHH", data, 24)
        yield operation, data[32 + header :]
        position += 16 + captured


def test_a_missing_module_is_one_message(lab: Lab, tmp_path: Path) -> None:
    lab._guest.run(["modprobe", "-r", "--wait", "10000", "vhost_vsock"]).check()
    said: list[bytes] = []
    lab._results = tmp_path
    try:
        status = lab.run(["suites/transport/test_vsock_directions.py"], [], said.append)
    finally:
        lab._guest.run(["modprobe", "vhost_vsock"]).check()
    told = b"".join(said).decode().splitlines()
    assert status == 2
    assert told == [
        "lab: kvtest: /dev/vhost-vsock does not open: No such file or directory",
        "lab:   hint: modprobe vhost_vsock, as root; kvtest doctor says what else may be wrong",
    ]
