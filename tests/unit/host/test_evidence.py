# SPDX-License-Identifier: Apache-2.0
"""Artifacts of failed tests, from one machine to another."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from kvtest.host.arriving import ArrivingEvidence
from kvtest.host.evidence import Evidence


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The results there: of two tests that share a guest."""
    results = tmp_path / "there"
    for name in ("one", "two"):
        (results / "artifacts" / name).mkdir(parents=True)
        (results / "artifacts" / name / "failure.txt").write_text(name)
        (results / "artifacts" / name / "guest").symlink_to("../../guests/guest-1")
    (results / "guests/guest-1").mkdir(parents=True)
    (results / "guests/guest-1/console.log").write_bytes(bytes(1 << 20))
    return results


def line(there: Path, name: str, outcome: str) -> bytes:
    test = {"kind": "test", "outcome": outcome, "properties": {"artifacts": str(there / "artifacts" / name)}}
    return json.dumps(test).encode() + b"\n"


def carry(evidence: Evidence, here: Path, most: int = 1000) -> None:
    with closing(ArrivingEvidence(here)) as arriving:
        for _ in range(most):
            if not evidence.waiting:
                return
            header, piece = evidence.piece()
            arriving.take(piece, **header)


def test_what_a_failed_test_has_left_comes_with_its_guest(there: Path, tmp_path: Path) -> None:
    here, evidence = tmp_path / "here", Evidence(there)
    here.mkdir()
    assert not evidence.waiting
    evidence.note(line(there, "one", "failed") + line(there, "two", "passed") + b'{"kind": "end", "time": 1}\n')
    carry(evidence, here)
    assert (here / "artifacts/one/failure.txt").read_text() == "one"
    assert (here / "artifacts/one/guest/console.log").stat().st_size == 1 << 20
    assert not (here / "artifacts/two").exists()
    evidence.note(line(there, "two", "error"))
    carry(evidence, here)
    assert (here / "artifacts/two/failure.txt").read_text() == "two"


def test_what_is_cut_off_leaves_nothing(there: Path, tmp_path: Path) -> None:
    here, evidence = tmp_path / "here", Evidence(there)
    here.mkdir()
    evidence.note(line(there, "one", "failed"))
    carry(evidence, here, most=1)
    assert list(here.iterdir()) == []


def test_a_test_may_have_left_nothing_or_say_nonsense(there: Path, tmp_path: Path) -> None:
    here, evidence = tmp_path / "here", Evidence(there)
    here.mkdir()
    evidence.note(line(there, "gone", "failed") + line(Path("/etc"), "passwd", "failed"))
    evidence.note(b'{"kind": "test", "outcome": "failed"}\n')
    carry(evidence, here)
    assert not evidence.waiting
    assert not list(here.rglob("*"))
