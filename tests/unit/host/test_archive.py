# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from kvtest.errors import HostError
from kvtest.host.archive import unpack


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def _archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname = kind, mode, target
    return member


def test_files_get_to_their_places(tmp_path: Path, directory: Path) -> None:
    script = _member("./artifacts/a/qemu.sh", mode=0o6777)
    archive = _archive(tmp_path / "archive", (_member("./artifacts/b", tarfile.DIRTYPE), b""), (script, b"#!/bin/sh"))
    unpack(archive, directory)
    assert (directory / "artifacts/b").is_dir()
    assert (directory / "artifacts/a/qemu.sh").read_bytes() == b"#!/bin/sh"
    assert (directory / "artifacts/a/qemu.sh").stat().st_mode & 0o7777 == 0o755


def test_links_within_lead_where_they_led(tmp_path: Path, directory: Path) -> None:
    archive = _archive(
        tmp_path / "archive",
        (_member("./guests/one/console.log"), b"booted"),
        (_member("./artifacts/a/guest", tarfile.SYMTYPE, target="../../guests/one"), b""),
    )
    for _ in range(2):  # also over what is there already
        unpack(archive, directory)
    assert (directory / "artifacts/a/guest/console.log").read_bytes() == b"booted"


def test_devices_pipes_and_hard_links_are_left_out(tmp_path: Path, directory: Path) -> None:
    kinds = {"hard": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE, "disk": tarfile.BLKTYPE}
    members = [(_member(name, kind, target="/etc/passwd"), b"") for name, kind in kinds.items()]
    unpack(_archive(tmp_path / "archive", *members, (_member("file"), b"x")), directory)
    assert [path.name for path in directory.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../escaped", "artifacts/../../escaped"])
def test_names_that_lead_out_are_refused(tmp_path: Path, directory: Path, name: str) -> None:
    archive = _archive(tmp_path / "archive", (_member(name), b"x"))
    with pytest.raises(HostError, match="leads out of"):
        unpack(archive, directory)
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    ("links", "name"),
    [
        ({"link": "/etc"}, "unseen"),
        ({"link": ".."}, "unseen"),
        ({"a/link": "../.."}, "unseen"),
        ({"link": "a/../.."}, "unseen"),
        ({"a/link": "../a/../escaped"}, "unseen"),
        ({"link": "."}, "link/escaped"),
        ({"here": ".", "there": "here/.."}, "unseen"),
    ],
)
def test_links_that_lead_out_are_refused(tmp_path: Path, directory: Path, links: dict[str, str], name: str) -> None:
    members = [(_member(path, tarfile.SYMTYPE, target=target), b"") for path, target in links.items()]
    archive = _archive(tmp_path / "archive", *members, (_member(name), b"x"))
    with pytest.raises(HostError, match="leads out of"):
        unpack(archive, directory)
    assert not (directory / "unseen").exists()
    assert not (directory / "escaped").exists()


@pytest.mark.parametrize("kept", [0, 1, 20, 600])
def test_what_is_cut_off_is_refused(tmp_path: Path, directory: Path, kept: int) -> None:
    archive = _archive(tmp_path / "archive", (_member("random"), bytes(range(256)) * 4096))
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(HostError, match="no archive of artifacts"):
        unpack(archive, directory)
