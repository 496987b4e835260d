# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from kvtest.deadline import Deadline
from kvtest.errors import FrameError, UnknownNameError
from kvtest.rpc import api
from kvtest.rpc.client import Client
from kvtest.rpc.server import Call, Connection

ROOT = Path(__file__).parents[3]
EVENTS = "containerd.services.events.ttrpc.v1"


def _ours(directory: Path) -> dict[str, list[FileDescriptorProto]]:
    """Return what our own texts became; the files of protobuf itself change with its compiler."""
    return {
        path.stem: [
            file
            for file in FileDescriptorSet.FromString(path.read_bytes()).file
            if not file.name.startswith("google/protobuf/")
        ]
        for path in directory.glob("*.binpb")
    }


def test_descriptor_sets_are_those_of_the_texts(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "ci" / "descriptors.py", tmp_path], check=True)
    assert _ours(ROOT / "kvtest/rpc/descriptors") == _ours(tmp_path), "run ci/descriptors"


def test_an_unknown_api_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'events'"):
        api.load("event")


def test_a_call_carries_messages_both_ways() -> None:
    events = api.load("events")
    forward = events.message(f"{EVENTS}.ForwardRequest")
    ours, theirs = socket.socketpair()
    seen = []

    def take(call: Call) -> bytes:
        seen.append(forward.FromString(call.payload))
        return b""

    with theirs:
        client = Client(ours, "events")
        service = api.Service(client, events, f"{EVENTS}.Events")
        pending = service.begin("Forward", forward(envelope={"topic": "/tasks/exit"}), deadline=5.0)
        server = Connection({f"{EVENTS}.Events": {"Forward": take}}, theirs.sendall)
        server.feed(theirs.recv(4096))
        pending.result(Deadline(5.0))
        client.close()
    assert seen[0].envelope.topic == "/tasks/exit"


def test_an_answer_that_is_no_message_is_said_to_be_none() -> None:
    events = api.load("events")
    ours, theirs = socket.socketpair()
    with theirs:
        client = Client(ours, "events")
        pending = api.Service(client, events, f"{EVENTS}.Events").begin("Forward", deadline=5.0)
        server = Connection({f"{EVENTS}.Events": {"Forward": lambda _call: b"\xff\xff"}}, theirs.sendall)
        server.feed(theirs.recv(4096))
        with pytest.raises(FrameError, match=r"the answer to .*Forward is no google\.protobuf\.Empty"):
            pending.result(5.0)
        client.close()
