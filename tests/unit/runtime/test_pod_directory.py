# SPDX-License-Identifier: Apache-2.0
"""The directories of pods: nothing of them stays, whoever comes and goes at the same time."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from kvtest.runtime.reference import pod, serve, start
from kvtest.runtime.reference.arguments import Invocation
from kvtest.runtime.reference.pod import PodDirectory


@pytest.fixture
def pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pod, "PODS", tmp_path / "kvtest")
    return tmp_path / "kvtest"


def test_the_last_pod_takes_the_directories_above_with_it(pods: Path) -> None:
    one, other, elsewhere = (PodDirectory(pods / name) for name in ("a/one", "a/other", "b/one"))
    for directory in (one, other, elsewhere):
        with directory.locked(made=True):
            pass
    for directory, left in ((one, ["a", "a/other", "b", "b/one"]), (other, ["b", "b/one"])):
        with directory.locked():
            directory.end(ending=False)
        assert sorted(str(path.relative_to(pods)) for path in pods.rglob("*")) == left
    with elsewhere.locked():
        elsewhere.end(ending=False)
    assert not pods.exists()
    assert pods.parent.is_dir()


def test_a_pod_is_made_while_the_last_one_goes(pods: Path) -> None:
    def come_and_go(name: str) -> None:
        directory = PodDirectory(pods / "a" / name)
        for _ in range(200):
            with directory.locked(made=True) as there:
                assert there
                assert directory.path.is_dir()
                directory.end(ending=False)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, ("one", "other", "third", "one")))
    assert not pods.exists()


def test_a_shim_that_breaks_at_once_takes_them_along(
    pods: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> NoReturn:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(serve, "serve", broken)
    bundle, directory, socket = tmp_path / "bundle", PodDirectory(pods / "a/one"), tmp_path / "s/socket"
    bundle.mkdir()
    with directory.locked(made=True):
        start._start(Invocation("start", "a", "one", "", bundle), socket, directory)
        shim = json.loads((directory.path / "shim.json").read_bytes())["pid"]
    assert os.waitstatus_to_exitcode(os.waitpid(shim, 0)[1]) == 1
    assert not pods.exists()
    assert not socket.exists()
