# SPDX-License-Identifier: Apache-2.0
"""The vhost-vsock of a lab host in its reports: what was sent over it, what is left of it, and that it is missing."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from kvtest.host.lab import Lab
from kvtest.report import Outcome, Results
from kvtest.settings import Settings

SUITE = """
import subprocess

import pytest
from kvtest.peers import echo, receive_exactly
from kvtest.transport import Transport

pytestmark = pytest.mark.parametrize("vsock", [Transport.VHOST_VSOCK], ids=str, indirect=True)

def talk(client):
    client.sendall(b"a word")
    assert receive_exactly(client, 6) == b"a word"

@pytest.mark.requirement("VSOCK-DIRECTION-001")
def test_fails(guest, vsock):
    with guest.serve(echo) as service, vsock.connect(service.port) as client:
        talk(client)
        assert "this" == "that"

def test_passes(guest, vsock):
    with guest.serve(echo) as service, vsock.connect(service.port) as client:
        talk(client)

def test_leaves_a_socket(guest, vsock):
    with guest.serve(echo) as service, vsock.connect(service.port) as client:
        talk(client)
        # A process that nobody knows as ours has it: it has left pytest's, and its environment is empty.
        command = "sleep 1000 >/dev/null 2>&1 </dev/null & echo $! >/work/left"
        subprocess.run(["/bin/sh", "-c", command], env={}, check=True, pass_fds=[client.fileno()])
"""
MINE = "/work/test_mine.py"
PAYLOAD = 4  # AF_VSOCK_OP_PAYLOAD, linux/vsockmon.h


@pytest.fixture(scope="module")
def lab(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("lab")
    with Lab("lab", attrs.evolve(settings, results=directory), None, directory / "host") as lab:
        yield lab


def test_what_a_failed_test_sent_and_what_another_left_is_there(lab: Lab, tmp_path: Path) -> None:
    lab._guest.write_file(MINE, SUITE.encode())
    said: list[bytes] = []
    lab._results = tmp_path
    assert lab.run([MINE], ["--census-timeout=1"], said.append) == 1
    lab.fetch(tmp_path)
    lab._guest.run(["sh", "-c", "kill $(cat /work/left)"]).check()

    tests = {
        test.id.partition("::")[2].partition("[")[0]: test for test in Results.read(tmp_path / "results.jsonl").tests
    }
    assert tests["test_fails"].outcome is Outcome.FAILED
    assert tests["test_passes"].outcome is Outcome.PASSED
    assert tests["test_leaves_a_socket"].outcome is Outcome.FAILED
    assert "left behind" in tests["test_leaves_a_socket"].message
    assert "vsock-socket" in tests["test_leaves_a_socket"].message

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
