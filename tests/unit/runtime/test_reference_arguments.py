# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kvtest.errors import ShimError
from kvtest.runtime.reference.arguments import parse, pod_of, specification

BUNDLE = Path("/bundle")
WORDS = ["-namespace", "n", "-address", "/run/a.sock", "-publish-binary", "/bin/true", "-id", "c1", "-debug", "start"]


def test_what_containerd_says() -> None:
    found = parse(WORDS, BUNDLE)
    assert (found.action, found.namespace, found.name, found.bundle) == ("start", "n", "c1", BUNDLE)


def test_both_ways_of_writing_a_flag() -> None:
    found = parse(["--namespace=n", "-id=c1", "-bundle=/other", "delete"], BUNDLE)
    assert (found.action, found.name, found.bundle) == ("delete", "c1", Path("/other"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing is no action"),
        (["-namespace", "n", "-id", "c", "begin"], "begin is no action"),
        (["-namespace", "n", "-id", "c", "begin"], "by hand: ctr run --runtime io.containerd.kvtest.v2"),
        (["-id", "c", "start"], "-namespace is missing"),
        (["-namespace", "n", "start"], "-id is missing"),
        (["-namespace"], "-namespace needs a value"),
    ],
)
def test_what_is_missing_is_said(words: list[str], message: str) -> None:
    with pytest.raises(ShimError, match=message):
        parse(words, BUNDLE)


def test_containers_of_a_pod_have_one_socket_and_pods_their_own() -> None:
    found = parse(WORDS, BUNDLE)
    annotated = {"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}
    assert pod_of(annotated, "c1") == "pod"
    assert pod_of({}, "c1") == "c1"
    with pytest.raises(ShimError, match="annotations of the configuration is no object"):
        pod_of({"annotations": ["wrong"]}, "c1")
    assert found.pod_socket("pod") == parse([*WORDS[:-2], "start"], BUNDLE).pod_socket("pod")
    assert found.pod_socket("pod") != found.pod_socket("c1")


@pytest.mark.parametrize(("content", "message"), [("{", "is no JSON"), ("[]", "is no configuration")])
def test_a_configuration_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ShimError, match=message):
        specification(tmp_path)


def test_a_bundle_without_a_configuration_is_one_message(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kvtest.runtime.reference.main", *WORDS]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert told.returncode == 1
    assert "could not read" in told.stderr
    assert "is it an OCI bundle?" in told.stderr
    assert "Traceback" not in told.stderr


def test_deleting_what_is_not_there_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    command = [sys.executable, "-m", "kvtest.runtime.reference.main", *WORDS[:-2], "delete"]
    for _ in range(2):
        told = subprocess.run(command, cwd=tmp_path, capture_output=True, stdin=subprocess.DEVNULL, check=False)
        assert told.returncode == 0, told.stderr
        assert told.stdout, "a DeleteResponse"
