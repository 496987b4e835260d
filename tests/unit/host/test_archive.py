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


def test_links_and_devices_are_left_out(tmp_path: Path, directory: Path) -> None:
    archive = _archive(
        tmp_path / "archive",
        (_member("link", tarfile.SYMTYPE, target="/etc"), b""),
        (_member("hard", tarfile.LNKTYPE, target="/etc/passwd"), b""),
        (_member("pipe", tarfile.FIFOTYPE), b""),
        (_member("link/passwd"), b"not there"),
    )
    unpack(archive, directory)
    assert [path.relative_to(directory).as_posix() for path in sorted(directory.rglob("*"))] == ["link", "link/passwd"]
    assert not (directory / "link").is_symlink()


@pytest.mark.parametrize("name", ["/etc/passwd", "../escaped", "artifacts/../../escaped"])
def test_names_that_lead_out_are_refused(tmp_path: Path, directory: Path, name: str) -> None:
    archive = _archive(tmp_path / "archive", (_member(name), b"x"))
    with pytest.raises(HostError, match="leads out of"):
        unpack(archive, directory)
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("kept", [0, 1, 20, 600])
def test_what_is_cut_off_is_refused(tmp_path: Path, directory: Path, kept: int) -> None:
    archive = _archive(tmp_path / "archive", (_member("random"), bytes(range(256)) * 4096))
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(HostError, match="no archive of artifacts"):
        unpack(archive, directory)
