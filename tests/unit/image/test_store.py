# SPDX-License-Identifier: Apache-2.0
"""The cache: complete entries or none, whatever happens to builders and files."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvtest.cache.progress import silent
from kvtest.cache.store import Entry, Store
from kvtest.deadline import Deadline
from kvtest.errors import CacheError, ImageError
from tests.processes import children_of, wait_for_end

ROOT = Path(__file__).parents[3]


class Builder:
    """Builds an entry of one file, and counts."""

    def __init__(self, content: bytes = b"content") -> None:
        self.content = content
        self.count = 0

    def __call__(self, target: Path) -> dict[str, Any]:
        self.count += 1
        (target / "file").write_bytes(self.content)
        return {"said": "something"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "a cache ß")


def get(store: Store, builder: Builder, name: str = "entry") -> Entry:
    return store.get(name, builder, silent)


def visible(store: Store) -> list[str]:
    return sorted(path.name for path in store.root.iterdir() if path.name != ".locks")


def test_an_entry_is_built_once(store: Store) -> None:
    builder = Builder()
    first = get(store, builder)
    assert (first.path / "file").read_bytes() == b"content"
    assert first.manifest["said"] == "something"
    assert first.size == 7
    assert get(store, builder) == first
    assert builder.count == 1


def test_a_failed_build_leaves_nothing(store: Store) -> None:
    def fail(target: Path) -> dict[str, Any]:
        (target / "half").write_bytes(b"x")
        raise ImageError("on purpose")

    with pytest.raises(ImageError):
        store.get("entry", fail, silent)
    assert visible(store) == []


@pytest.mark.parametrize("damage", ["changed", "truncated", "removed", "manifest", "same size and time"])
def test_a_corrupt_entry_is_built_again_and_said(store: Store, damage: str) -> None:
    builder = Builder()
    file = get(store, builder).path / "file"
    get(store, builder)  # its check is remembered now
    if damage == "removed":
        file.unlink()
    elif damage == "manifest":
        (file.parent / "manifest.json").write_text("{")
    elif damage == "same size and time":
        before = file.stat()
        file.write_bytes(b"CONTENT")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        file.write_bytes(b"changed" if damage == "changed" else b"con")
    said: list[str] = []

    @contextlib.contextmanager
    def progress(step: str) -> Iterator[None]:
        said.append(step)
        yield

    entry = store.get("entry", builder, progress)
    assert (entry.path / "file").read_bytes() == b"content"
    assert builder.count == 2
    assert any("corrupt" in step for step in said)
    assert visible(store) == ["entry"]


BUILD = """
import sys, time
from pathlib import Path
from kvtest.cache.progress import silent
from kvtest.cache.store import Store

def build(target):
    (target / "file").write_bytes(b"x")
    print("building", flush=True)
    sys.stdin.readline()
    return {}

print(Store(Path(sys.argv[1])).get("entry", build, silent).path, flush=True)
"""


@contextlib.contextmanager
def builder_process(store: Store) -> Iterator[subprocess.Popen[str]]:
    """Run a builder in a process of its own, which ends its build when it is sent a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        yield process
        process.kill()


def crash(process: subprocess.Popen[str]) -> None:
    """End a builder together with its keeper, which would clear up after it, as a crash of the machine does."""
    (keeper,) = children_of(process.pid)
    for pid in (keeper, process.pid):
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        assert wait_for_end([pidfd], Deadline(20))


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_second_builder_waits_and_finds_the_entry(store: Store) -> None:
    with builder_process(store) as first:
        assert line(first) == "building"
        waited: list[str] = []

        @contextlib.contextmanager
        def progress(step: str) -> Iterator[None]:
            waited.append(step)
            assert first.stdin is not None
            first.stdin.write("\n")
            first.stdin.flush()
            yield

        mine = Builder()
        entry = store.get("entry", mine, progress)
        assert waited == ["waiting for another process that builds entry"]
        assert mine.count == 0
        assert (entry.path / "file").read_bytes() == b"x"
        assert line(first) == str(entry.path)


def test_a_killed_builder_leaves_nothing(store: Store) -> None:
    with builder_process(store) as first:
        assert line(first) == "building"
        (keeper,) = children_of(first.pid)
        pidfd = os.pidfd_open(keeper)
        first.kill()
        assert wait_for_end([pidfd], Deadline(20))
    assert visible(store) == []


def test_a_builder_that_went_with_the_machine_leaves_no_entry_and_its_rest_goes(store: Store) -> None:
    with builder_process(store) as first:
        assert line(first) == "building"
        crash(first)
    assert store.find("entry") is None
    assert len(visible(store)) == 1
    get(store, Builder())
    assert visible(store) == ["entry"]


def test_prune_keeps_what_is_wanted_and_what_is_being_built(store: Store) -> None:
    get(store, Builder(), "old")
    get(store, Builder(), "wanted")
    with builder_process(store) as running:
        assert line(running) == "building"
        assert store.prune(lambda name: name == "wanted") == ["old"]
        assert running.stdin is not None
        running.stdin.write("\n")
        running.stdin.flush()
        assert line(running) == str(store.root / "entry")
    assert store.names() == ["entry", "wanted"]


def test_prune_removes_what_went_with_the_machine(store: Store) -> None:
    with builder_process(store) as first:
        assert line(first) == "building"
        crash(first)
    assert len(store.prune(lambda name: True)) == 1
    assert visible(store) == []


def test_a_cache_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a directory")
    with pytest.raises(CacheError, match="could not write to the cache") as caught:
        get(Store(tmp_path / "cache"), Builder())
    assert caught.value.hint


def test_a_full_cache(store: Store) -> None:
    # A limit on the size of files fails writes like a full disk does, without needing a disk.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(CacheError, match="could not write") as caught:
            get(store, Builder(bytes(5000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "prune" in (caught.value.hint or "")
    assert visible(store) == []


READ_ONLY = """
import sys
from pathlib import Path
from kvtest.errors import CacheError
from kvtest.cache.progress import silent
from kvtest.cache.store import Store

store = Store(Path(sys.argv[1]))
print(store.get("entry", None, silent).path.name)
try:
    store.get("other", lambda target: {}, silent)
except CacheError as error:
    print(error)
"""


def test_a_read_only_cache_serves_what_it_has(store: Store) -> None:
    get(store, Builder())
    # In a chroot / need not be a mount that could be made private, hence the umount.
    command = (
        'mount --make-rprivate / 2>/dev/null; mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" '
        '&& "$2" -c "$3" "$1"; status=$?; umount "$1"; exit $status'
    )
    result = subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "unchanged", *(() if os.geteuid() == 0 else ("--map-root-user",))),
            *("sh", "-c", command, "sh", str(store.root), sys.executable, READ_ONLY),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.stdout.splitlines()[0] == "entry"
    assert "Read-only file system" in result.stdout
    assert "hint: choose another with --cache" in result.stdout
