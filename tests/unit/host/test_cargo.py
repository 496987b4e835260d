# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from kvtest.host import cargo, installed


def test_kvtest_and_what_it_is_built_on_are_carried() -> None:
    tree = cargo.site()
    for name in ("kvtest/cli/main.py", "kvtest/suites/transport/__init__.py", "kvtest/images/guest.toml"):
        assert name in tree.files
    assert any(name.startswith("pytest/") for name in tree.files)
    assert any(name.endswith(".dist-info/entry_points.txt") for name in tree.files)
    assert not any(name.startswith("paramiko/") or "__pycache__" in name for name in tree.files)
    assert cargo.site().place == tree.place
    assert installed.scripts()["kvtest"] == "kvtest.cli:main"


@pytest.mark.parametrize("content", [b"", b"x", b"x" * (1 << 20)])
def test_a_file_is_the_sum_of_its_pieces(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    file = cargo.File(path, hashlib.sha256(content).hexdigest(), len(content))
    pieces = list(file.pieces())
    assert b"".join(data for _, data, _ in pieces) == content
    assert [last for _, _, last in pieces] == [False] * (len(pieces) - 1) + [True]
    assert file.data == len(content)


def test_holes_are_not_carried(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    with path.open("wb") as stream:
        stream.seek(64 << 20)
        stream.write(b"end")
    os.truncate(path, 128 << 20)
    file = cargo.File(path, "", 128 << 20)
    assert sum(len(data) for _, data, _ in file.pieces()) == file.data < 1 << 20


@pytest.mark.parametrize(
    ("tag", "versions"),
    [
        ("Tag: cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", [(2, 17), (2, 17)]),
        ("Tag: cp311-abi3-manylinux_2_34_x86_64", [(2, 34)]),
        ("Tag: py3-none-any", []),
    ],
)
def test_wheels_say_which_libc_they_need(tag: str, versions: list[tuple[int, int]]) -> None:
    assert list(cargo._versions(tag)) == versions
