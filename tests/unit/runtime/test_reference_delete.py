# SPDX-License-Identifier: Apache-2.0
"""What ``delete`` of the reference shim ends, and what goes on: with processes in place of shim and machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvtest.errors import RPCError
from kvtest.ownership import RunDirectory
from kvtest.rpc.api import load
from kvtest.rpc.status import Code
from kvtest.runtime.reference import arguments, pod
from kvtest.runtime.reference.arguments import Invocation
from kvtest.runtime.reference.delete import delete
from kvtest.runtime.reference.pod import PodDirectory
from kvtest.runtime.reference.server import Server
from kvtest.runtime.reference.state import TASK

POD = "pod"


class Shim:
    """A pod with two containers: a process that only sleeps, and a socket that may be served."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.process = subprocess.Popen(["sleep", "1000"])
        self.machine = subprocess.Popen(["sleep", "1000"])
        self.asked: list[tuple[str, str]] = []
        for name in (POD, "second"):
            self.invocation(name).bundle.mkdir()
            annotations = {"io.kubernetes.cri.sandbox-id": POD}
            (self.invocation(name).bundle / "config.json").write_text(json.dumps({"annotations": annotations}))
        self.path = self.invocation(POD).pod_socket(POD)
        self.path.parent.mkdir()
        self.directory = PodDirectory.of(self.invocation(POD), POD)
        with self.directory.locked(made=True):
            self.directory.add(POD)
            self.directory.add("second")
            self.directory.note_shim(self.process.pid)
            self.directory.note_machine(self.machine.pid)
        self.listener = socket.socket(socket.AF_UNIX)

    def invocation(self, name: str) -> Invocation:
        return Invocation("delete", "n", name, "/run/a.sock", self.base / name)

    def listen(self) -> None:
        self.listener.bind(str(self.path))
        self.listener.listen()

    def serve(self) -> None:
        self.listen()
        Server(self.listener, load("task"), f"{TASK}.Task", {name: self._answer(name) for name in _METHODS})

    def _answer(self, method: str) -> Any:
        def answer(request: Any) -> None:
            self.asked.append((method, request.id))
            if method == "Kill":
                raise RPCError(Code.NOT_FOUND, "it has ended")

        return answer

    @property
    def lives(self) -> tuple[bool, bool]:
        return self.process.poll() is None, self.machine.poll() is None


_METHODS = ("Kill", "Wait", "Delete")
BOTH, NEITHER = (True, True), (False, False)


@pytest.fixture
def shim(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shim]:
    with RunDirectory() as directory:
        monkeypatch.setattr(arguments, "SOCKETS", directory.path / "s")
        monkeypatch.setattr(pod, "PODS", directory.path / "pods")
        made = Shim(directory.path)
        yield made
        made.listener.close()
        for process in (made.process, made.machine):
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", [POD, "second"])
def test_a_container_that_was_deleted_in_order_takes_nobody_with_it(shim: Shim, name: str) -> None:
    shim.serve()
    shim.directory.remove(name)
    delete(shim.invocation(name))
    assert shim.lives == BOTH
    assert shim.asked == []
    assert shim.path.exists()


@pytest.mark.parametrize("name", [POD, "second"])
def test_a_shim_that_answers_lets_go_of_one(shim: Shim, name: str) -> None:
    shim.serve()
    delete(shim.invocation(name))
    assert shim.lives == BOTH
    assert shim.asked == [(method, name) for method in _METHODS]
    assert shim.directory.containers == {POD, "second"} - {name}


def test_a_shim_that_hangs_is_ended_with_its_machine(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvtest.runtime.reference.delete._PATIENCE", 0.1)
    shim.listen()
    shim.process.send_signal(signal.SIGSTOP)
    delete(shim.invocation("second"))
    assert shim.lives == NEITHER
    assert not shim.directory.path.exists()


@pytest.mark.parametrize("name", [POD, "second"])
def test_with_a_shim_that_is_dead_its_machine_ends(shim: Shim, name: str) -> None:
    shim.process.kill()
    shim.process.wait()
    delete(shim.invocation(name))
    assert shim.lives == NEITHER
    assert not shim.directory.path.exists()
    for other in (POD, "second"):
        delete(shim.invocation(other))


def test_the_last_container_takes_the_shim_with_it(shim: Shim) -> None:
    shim.listen()
    shim.directory.remove(POD)
    delete(shim.invocation("second"))
    assert shim.lives == NEITHER


def test_a_shim_that_is_about_to_end_is_given_time(shim: Shim) -> None:
    shim.directory.remove(POD)
    shim.directory.remove("second")
    ends = threading.Timer(0.2, shim.process.terminate)
    ends.start()
    delete(shim.invocation("second"))
    ends.join()
    assert shim.process.wait() == -signal.SIGTERM  # and was not killed


def test_another_pod_of_that_id_is_left_alone(shim: Shim) -> None:
    """One that was started again after the first, and before somebody came to delete the last container of that."""
    shim.serve()
    shim.directory.remove("second")
    delete(shim.invocation("second"))
    assert shim.lives == BOTH


def test_another_process_of_that_number_is_left_alone(shim: Shim) -> None:
    (noted,) = shim.directory.path.glob("shim.json")
    noted.write_text(json.dumps({"pid": shim.process.pid, "start": "1"}))
    delete(shim.invocation(POD))
    assert shim.lives == (True, False)


def test_an_annotation_leads_nowhere_else(shim: Shim) -> None:
    path = PodDirectory.of(shim.invocation(POD), "../../etc").path
    assert path.parent == pod.PODS / "n"
    assert os.path.normpath(path) == str(path)
