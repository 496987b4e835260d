# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvtest.image.cpio import Archive, extract


def make(tree: Path) -> bytes:
    archive = Archive()
    archive.tree(tree)
    archive.character_device("dev/console", 5, 1, mode=0o600)
    return archive.finish()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/tool").write_bytes(b"#!/bin/sh\n")
    (root / "usr/bin/tool").chmod(0o755)
    (root / "größe").write_bytes(b"abc")
    (root / "empty").touch()
    (root / "bin").symlink_to("usr/bin")
    return root


def test_what_is_packed_is_unpacked(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    extract(make(tree), target)
    assert (target / "bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert (target / "bin/tool").stat().st_mode & 0o777 == 0o755
    assert (target / "größe").read_bytes() == b"abc"
    assert os.readlink(target / "bin") == "usr/bin"


def test_archives_that_follow_each_other_are_unpacked_one_by_one(tree: Path, tmp_path: Path) -> None:
    second = Archive()
    second.file("second", b"x" * 1000)
    both, target = make(tree) + second.finish(), tmp_path / "target"
    middle = extract(both, target)
    assert not (target / "second").exists()
    assert extract(both, target, middle) == len(both)
    assert (target / "second").read_bytes() == b"x" * 1000


def test_bytes_do_not_depend_on_times_and_owners(tree: Path) -> None:
    first = make(tree)
    os.utime(tree / "größe", (1, 1))
    assert make(tree) == first
    assert len(first) % 512 == 0


def test_a_name_that_leads_out_is_refused(tmp_path: Path) -> None:
    archive = Archive()
    archive.file("../outside", b"x")
    with pytest.raises(ValueError, match="leads out"):
        extract(archive.finish(), tmp_path / "target")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("data", [b"", b"070702" + b"0" * 104, b"070701" + b"0" * 20])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError, match="no cpio header"):
        extract(data, tmp_path)
