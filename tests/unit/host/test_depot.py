# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from kvtest.host.depot import Depot, RunPlace

DAY = 86400


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    return Depot(tmp_path / "remote")


def _bring(depot: Depot, place: str, files: dict[str, bytes]) -> list[str]:
    """Bring a directory; return the objects that were missing."""
    named = {name: (hashlib.sha256(data).hexdigest(), len(data), name.endswith(".sh")) for name, data in files.items()}
    missing = depot.missing({place: named})
    for data in files.values():
        if (digest := hashlib.sha256(data).hexdigest()) in missing:
            depot.take(digest, 0, zlib.compress(data), len(data))
    depot.settle({place: named})
    return missing


def test_only_what_is_missing_is_wanted(depot: Depot) -> None:
    assert len(_bring(depot, "sites/a", {"x.py": b"x", "y/z.py": b"z", "empty": b""})) == 3
    assert (depot.base / "sites/a/y/z.py").read_bytes() == b"z"
    assert stat.S_IMODE(depot.base.stat().st_mode) == 0o700
    assert _bring(depot, "sites/a", {"x.py": b"x", "y/z.py": b"z", "empty": b""}) == []
    changed = {"x.py": b"x", "y/z.py": b"changed", "empty": b""}
    assert _bring(depot, "sites/b", changed) == [hashlib.sha256(b"changed").hexdigest()]
    assert (depot.base / "sites/b/y/z.py").read_bytes() == b"changed"
    assert (depot.base / "sites/a/y/z.py").read_bytes() == b"z"


def test_programs_are_programs_there(depot: Depot) -> None:
    _bring(depot, "files/a", {"shim.sh": b"#!/bin/sh", "x": b"x"})
    assert [bool((depot.base / f"files/a/{name}").stat().st_mode & 0o100) for name in ("shim.sh", "x")] == [True, False]


def test_holes_stay_holes(depot: Depot) -> None:
    content = bytes(1 << 20) + b"end" + bytes(1 << 20)
    digest = hashlib.sha256(content).hexdigest()
    depot.take(digest, 1 << 20, zlib.compress(b"end"), len(content))
    depot.settle({"sites/a": {"memory": (digest, len(content), False)}})
    file = depot.base / "sites/a/memory"
    assert file.read_bytes() == content
    assert file.stat().st_blocks * 512 < 1 << 19


def test_what_is_not_what_its_name_says_is_refused(depot: Depot) -> None:
    digest = hashlib.sha256(b"right").hexdigest()
    with pytest.raises(ValueError, match=f"what came as {digest} is "):
        depot.take(digest, 0, zlib.compress(b"wrong"), 5)
    assert depot.missing({"sites/a": {"x": (digest, 5, False)}}) == [digest]
    depot.drop()
    assert [path for path in (depot.base / "objects").rglob("*") if path.is_file()] == []


def test_what_nobody_wants_any_more_goes(depot: Depot) -> None:
    _bring(depot, "sites/old", {"x": b"old", "same": b"same"})
    _bring(depot, "sites/new", {"x": b"new", "same": b"same"})
    long_ago = time.time() - 15 * DAY
    for path in (depot.base / "objects").glob("*/*"):
        os.utime(path, (long_ago, long_ago))
    os.utime(depot.base / "sites/old", (long_ago, long_ago))
    depot.forget_old()
    assert [path.name for path in (depot.base / "sites").iterdir()] == ["new"]
    left = {path.read_bytes() for path in (depot.base / "objects").glob("*/*")}
    assert left == {b"new", b"same"}
    os.utime(depot.base / "sites/new", (long_ago, long_ago))
    assert _bring(depot, "sites/new", {"x": b"new", "same": b"same"}) == []  # wanted again, and so not old
    depot.forget_old()
    assert (depot.base / "sites/new").is_dir()


def test_only_so_many_stay_that_are_not_in_use(depot: Depot) -> None:
    for number in range(11):
        _bring(depot, f"cache/images/{number}", {"x": b"%d" % number})
        used = time.time() - number * 1800 - 60
        os.utime(depot.base / f"cache/images/{number}", (used, used))
    (depot.base / "cache/images/.new-of-somebody").mkdir()
    depot.forget_old()
    left = sorted(path.name for path in (depot.base / "cache/images").iterdir())
    assert left == [".new-of-somebody", *map(str, range(8))]


def test_directories_of_runs_that_were_killed_go(depot: Depot) -> None:
    used, left = RunPlace(depot), RunPlace(depot)
    (left.path / "work").mkdir()
    os.close(left._lock)  # as when its process is killed
    again = RunPlace(depot)
    assert sorted((depot.base / "runs").iterdir()) == sorted([used.path, again.path])
    assert stat.S_IMODE(used.path.stat().st_mode) == 0o700
    used.remove()
    again.remove()
    assert list((depot.base / "runs").iterdir()) == []


FILES = {"x.py": b"x", "y/z.py": b"zz", "y/run.sh": b"#!/bin/sh"}


def _remove(tree: Path) -> None:
    (tree / "y/z.py").unlink()


def _cut(tree: Path) -> None:
    os.truncate(tree / "y/z.py", 1)  # and so the object, which is the same file


def _lengthen(tree: Path) -> None:
    (tree / "y/z.py").unlink()
    (tree / "y/z.py").write_bytes(b"longer")


def _make_no_program(tree: Path) -> None:
    (tree / "y/run.sh").chmod(0o600)


def _make_a_directory(tree: Path) -> None:
    (tree / "y/z.py").unlink()
    (tree / "y/z.py").mkdir()


def _make_a_file(tree: Path) -> None:
    shutil.rmtree(tree / "y")
    (tree / "y").write_bytes(b"")


def _make_a_dangling_link(tree: Path) -> None:
    (tree / "y/z.py").unlink()
    (tree / "y/z.py").symlink_to("gone")


def _empty(tree: Path) -> None:
    shutil.rmtree(tree)
    tree.mkdir()


@pytest.mark.parametrize(
    ("damage", "wanted"),
    [
        (_remove, []),
        (_cut, [hashlib.sha256(b"zz").hexdigest()]),
        (_lengthen, []),
        (_make_no_program, []),
        (_make_a_directory, []),
        (_make_a_file, []),
        (_make_a_dangling_link, []),
        (_empty, []),
    ],
)
def test_what_is_damaged_is_mended(depot: Depot, damage: Callable[[Path], None], wanted: list[str]) -> None:
    _bring(depot, "sites/a", FILES)
    tree = depot.base / "sites/a"
    damage(tree)
    assert _bring(depot, "sites/a", FILES) == wanted
    assert {name: (tree / name).read_bytes() for name in FILES} == FILES
    assert (tree / "y/run.sh").stat().st_mode & 0o100
    assert not list(depot.base.glob("**/.new-*"))
    assert _bring(depot, "sites/a", FILES) == []


def test_what_another_run_uses_stays_while_the_rest_is_mended(depot: Depot) -> None:
    _bring(depot, "sites/a", FILES)
    tree = depot.base / "sites/a"
    (tree / "y/z.pyc").write_bytes(b"made by a run")
    before = {path: path.stat().st_ino for path in (tree, tree / "y", tree / "x.py", tree / "y/z.pyc")}
    with (tree / "x.py").open("rb") as used:
        _remove(tree)
        _bring(depot, "sites/a", FILES)
        assert {path: path.stat().st_ino for path in before} == before
        assert used.read() == b"x"
    assert (tree / "y/z.py").read_bytes() == b"zz"


def test_an_object_that_is_not_what_its_name_says_is_wanted_again(depot: Depot) -> None:
    _bring(depot, "sites/a", FILES)
    (depot.base / "sites/a/y/z.py").write_bytes(b"ab")  # of the same size, and the object, too
    assert _bring(depot, "sites/b", FILES) == [hashlib.sha256(b"zz").hexdigest()]
    assert (depot.base / "sites/b/y/z.py").read_bytes() == b"zz"
