# SPDX-License-Identifier: Apache-2.0
"""What of a run is the user's own, and where that is on another machine."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from kvtest.cli.belongings import Belongings, shipped
from kvtest.cli.lab import open_lab, usual_kernel
from kvtest.errors import UsageError
from kvtest.host import installed
from kvtest.resources import suites_directory
from kvtest.settings import LoadedSettings, load

Load = Callable[..., LoadedSettings]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def loaded(here: Path) -> Load:
    return lambda **given: load(given, {}, {}, here, flag_prefix="--")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("transport", "transport"),
        ("suites/transport/test_vsock_close.py::test_x[1]", "suites/transport/test_vsock_close.py::test_x[1]"),
        (f"{suites_directory()}/runtime/test_events.py", "suites/runtime/test_events.py"),
        ("./transport", None),
        ("mine/test_a.py", None),
    ],
)
def test_what_is_shipped(here: Path, name: str, known: str | None) -> None:
    assert shipped(name) == known


def test_what_is_the_users_own_is_named_as_it_is_there(here: Path, loaded: Load) -> None:
    for name in ("mine/test_a.py", "requirements/own.toml", "profile.toml", "shim", "kernel", "initrd"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(f"# {name}")
    settings = loaded(
        requirements="requirements",
        runtime="./profile.toml",
        shim="./shim",
        agent_kernel="kernel",
        agent_initrd="initrd",
        memory="512",
        cache="elsewhere",
    )
    what = ["transport", "mine/test_a.py::test_x"]
    belongings = Belongings.of(what, settings)
    places = [parcel.tree.place for parcel in belongings.parcels]
    tests, kernel, initrd, requirements, profile, shim = places
    assert all(place.startswith("files/") for place in places)
    assert list(belongings.named(what, "/base")) == ["transport", f"/base/{tests}/test_a.py::test_x"]
    assert list(belongings.flags(settings, "/base")) == [
        f"--agent-kernel=/base/{kernel}/kernel",
        f"--agent-initrd=/base/{initrd}/initrd",
        "--memory=512",
        f"--requirements=/base/{requirements}",
        f"--runtime=/base/{profile}/profile.toml",
        f"--shim=/base/{shim}/shim",
    ]


def test_names_and_agents_are_told_as_they_are(here: Path, loaded: Load) -> None:
    (here / "my-agent").write_text("#!/bin/sh\n")
    (here / "my-agent").chmod(0o755)
    settings = loaded(runtime="runc", shim="my-shim", agent="my-agent")
    belongings = Belongings.of(["agent"], settings)
    assert belongings.parcels == ()
    assert f"--agent={here}/my-agent" in list(belongings.flags(settings, "/base"))


@pytest.mark.parametrize(
    ("what", "given", "message"),
    [
        (["mine"], {}, "there is no /.*/mine"),
        ([], {"shim": "./gone"}, "--shim: there is no file /.*/gone to be brought"),
        ([], {"runtime_config": "gone"}, "--runtime-config: there is no file /.*/gone to be brought"),
        ([], {"requirements": "gone"}, "--requirements: there is no directory /.*/gone to be brought"),
        ([], {"agent": "gone"}, "could not read the agent /.*/gone: No such file"),
        ([], {"guest_kernel": "9.9"}, "unknown guest kernel '9.9'"),
        ([], {"guest_image": "gone.toml"}, "there is no file gone.toml for the guest image"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_done(
    here: Path, loaded: Load, what: list[str], given: dict[str, str], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        Belongings.of(what, loaded(**given))


def test_wrong_requirements_are_told_before_anything_is_done(here: Path, loaded: Load) -> None:
    (here / "own").mkdir()
    (here / "own/one.toml").write_text("[[requirement]]\nid = 'MINE-ONE-001'\nlevle = 'MUST'\n")
    with pytest.raises(UsageError, match=r"one\.toml.*levle"):
        Belongings.of(["transport"], loaded(requirements="own"))


@pytest.mark.parametrize("editable", [False, True])
def test_plugins_that_are_built_on_kvtest_come_with_it(
    here: Path, loaded: Load, monkeypatch: pytest.MonkeyPatch, editable: bool
) -> None:
    information = here / "site/vendor-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vendor\nVersion: 1.0\nRequires-Dist: kvtest>=0\n"
    )
    (information / "entry_points.txt").write_text("[pytest11]\nvendor = vendor\n")
    (information / "RECORD").write_text("vendor.py,,\nvendor-1.0.dist-info/METADATA,,\n")
    (information / "direct_url.json").write_text(
        f'{{"url": "file:///", "dir_info": {{"editable": {str(editable).lower()}}}}}'
    )
    (here / "site/vendor.py").touch()
    (here / "test_a.py").touch()
    monkeypatch.syspath_prepend(str(here / "site"))
    assert [one.metadata["Name"] for one in installed.plugins()] == ["vendor"]
    brought = {str(name) for name, _ in installed.files(installed.distributions())}
    assert ("vendor.py" in brought) is not editable
    if editable:
        with pytest.raises(UsageError, match="the plugin vendor is installed as editable"):
            Belongings.of(["test_a.py"], loaded())
    else:
        assert Belongings.of(["test_a.py"], loaded()).tests is not None
    assert metadata.distribution("vendor").version == "1.0"


def test_a_recipe_of_no_lab_host_is_refused_before_anything_is_made(here: Path, loaded: Load) -> None:
    with pytest.raises(UsageError, match="--lab-image guest: is no recipe of lab hosts, which load vhost_vsock"):
        open_lab("lab", loaded(lab_image="guest"), ["transport"], "")


def test_the_kernel_of_a_lab_host_is_not_that_of_guests(here: Path) -> None:
    assert usual_kernel() == "6.12"
