# SPDX-License-Identifier: Apache-2.0
"""Profiles: the shipped ones, and what is said of wrong ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvtest.errors import ProfileError, UnknownNameError
from kvtest.runtime import installation, profile
from kvtest.runtime.profile import Cgroups
from kvtest.settings import Settings

MINIMAL = 'description = "a runtime"\nshim = "/opt/shim"\nruntime = "io.containerd.x.v2"\ncure = "get it"\n'


def refused(directory: Path, text: str) -> str:
    file = directory / "mine.toml"
    file.write_text(text)
    with pytest.raises(ProfileError) as caught:
        profile.load(str(file))
    assert str(file) in caught.value.message
    return str(caught.value)


@pytest.mark.parametrize("name", profile.names())
def test_every_shipped_profile_can_be_read(name: str) -> None:
    found = profile.load(name)
    assert found.name == name
    assert found.cure


def test_what_a_runtime_needs_is_shipped() -> None:
    assert {"runc", "crun", "runsc", "kata", "kata-rs"} <= set(profile.names())


def test_a_users_own_is_found_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINIMAL)
    found = profile.load(str(file))
    assert (found.name, found.shim) == ("mine", "/opt/shim")


def test_an_unknown_name_has_a_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'runsc'"):
        profile.load("runsx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shim = 3", "not valid TOML"),
        (MINIMAL.replace('cure = "get it"\n', ""), "the key 'cure' is missing"),
        (MINIMAL + "clean_bound = 3", "did you mean 'cleanup_bound'?"),
        (MINIMAL + "cleanup_bound = 0", "'cleanup_bound' must be more than 0"),
        (MINIMAL + 'detection_bound = "soon"', "'detection_bound' must be a number"),
        (MINIMAL + 'features = ["paus"]', "'pause'"),
        (MINIMAL + 'cgroups = ["v3"]', "v3"),
        (MINIMAL + 'owns = ["/run/{sandbox}"]', "what is filled in is"),
        (MINIMAL + '[options]\nbinary = "x"', "'options.binary' and 'options.root' are of"),
        (MINIMAL + '[options]\narguments = ["x"]', "needs 'options.binary'"),
        (MINIMAL + '[vm]\nproces = "x"', "did you mean 'process'?"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    if text == "shim = 3":
        text = "shim = = 3"
    assert message in refused(tmp_path, text)


def test_without_root_the_cure_is_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    problem = next(installation.problems(profile.load("runc"), settings))
    assert "not root" in problem.message
    assert problem.hint == "run it with sudo"


def test_a_version_of_cgroups_that_a_runtime_does_not_support_is_said(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(installation, "cgroup_version", lambda: Cgroups.V1)
    file = tmp_path / "mine.toml"
    file.write_text(MINIMAL.replace("/opt/shim", "/bin/true") + 'cgroups = ["v2"]\n')
    (problem,) = [p for p in installation.problems(profile.load(str(file)), settings) if "cgroups" in p.message]
    assert problem.message == "mine does not run with cgroups v1, which this machine has"
    assert problem.hint is not None


@pytest.mark.parametrize(
    ("table", "controllers", "version"),
    [
        (["24 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"], None, Cgroups.V2),
        (["24 1 0:22 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids"], None, Cgroups.V1),
        (
            [
                "24 1 0:22 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids",
                "25 1 0:23 / {directory} rw - cgroup2 cgroup2 rw",
            ],
            "memory cpu\n",
            Cgroups.HYBRID,
        ),
        (
            [
                "24 1 0:22 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids",
                "25 1 0:23 / {directory} rw - cgroup2 cgroup2 rw",
            ],
            "\n",
            Cgroups.V1,
        ),
    ],
)
def test_the_version_of_cgroups_is_told_from_the_mounts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: list[str], controllers: str | None, version: Cgroups
) -> None:
    if controllers is not None:
        (tmp_path / "cgroup.controllers").write_text(controllers)
    lines = [line.format(directory=tmp_path) for line in table]
    monkeypatch.setattr(installation, "_mount_table", lambda: lines)
    assert installation.cgroup_version() is version
