# SPDX-License-Identifier: Apache-2.0
"""What is missing to run a runtime, and the cure."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import attrs
import pytest

from kvtest.runtime import installation, rootfs
from kvtest.runtime.installation import Installation, problems, shim_of, version_of
from kvtest.runtime.profile import Cgroups, ConfigurationFile, Options, OptionsType, Profile, Program, load
from kvtest.settings import Settings


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """A runtime of which everything is there."""
    program = tmp_path / "shim"
    program.write_text("#!/bin/sh\necho shim version 2.5.1\n")
    program.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(rootfs, "find_busybox", lambda: Path("/bin/busybox"))
    return Profile(name="mine", description="", shim=str(program), runtime="io.containerd.mine.v2", cure="build it")


def told(profile: Profile, settings: Settings) -> list[str]:
    return [str(problem) for problem in problems(profile, settings)]


def test_nothing_is_missing(profile: Profile, settings: Settings) -> None:
    assert told(profile, settings) == []


def test_the_shim_is_missing(profile: Profile, settings: Settings) -> None:
    absent = attrs.evolve(profile, shim="containerd-shim-absent-v2")
    assert told(absent, settings) == ["there is no containerd-shim-absent-v2, the shim of mine\n  hint: build it"]
    given = attrs.evolve(settings, shim="/nowhere/shim")
    assert told(profile, given) == ["there is no /nowhere/shim, the shim of mine\n  hint: --shim takes the path of one"]


def test_the_shim_is_no_program(profile: Profile, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("text")
    assert told(profile, attrs.evolve(settings, shim=str(path))) == [
        f"{path}, the shim of mine, is not a program\n  hint: chmod +x {path}"
    ]


def test_the_shim_is_a_directory(profile: Profile, settings: Settings, tmp_path: Path) -> None:
    directory = tmp_path / "release"
    directory.mkdir()
    given = attrs.evolve(settings, shim=str(directory))
    message = f"{directory} is a directory, and no shim of mine\n  hint: "
    assert told(profile, given) == [f"{message}--shim takes the path of the program itself"]
    (directory / "containerd-shim-mine-v2").touch(mode=0o700)
    assert told(profile, given) == [f"{message}did you mean {directory}/containerd-shim-mine-v2?"]


def test_a_program_or_the_configuration_is_missing(profile: Profile, settings: Settings, tmp_path: Path) -> None:
    needy = attrs.evolve(
        profile,
        programs=(Program("no-such-program", "install it"),),
        configuration=ConfigurationFile(paths=("/nowhere/configuration.toml",)),
    )
    assert told(needy, settings) == [
        "there is no configuration file of mine\n"
        "  hint: give it with --runtime-config PATH, or put it at /nowhere/configuration.toml",
        "there is no no-such-program\n  hint: install it",
    ]
    given = attrs.evolve(settings, runtime_config=tmp_path / "absent")
    assert f"there is no {tmp_path}/absent\n  hint: --runtime-config takes a file" in told(needy, given)


def test_the_version_is_too_old(profile: Profile, settings: Settings) -> None:
    assert told(attrs.evolve(profile, minimum_version="2.5"), settings) == []
    assert told(attrs.evolve(profile, minimum_version="2.10"), settings) == [
        f"{profile.shim} is version 2.5.1, 2.10 or newer is needed\n  hint: build it"
    ]


def test_the_version_of_cgroups_is_not_supported(
    profile: Profile, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "cgroup_version", lambda: Cgroups.HYBRID)
    (message,) = told(attrs.evolve(profile, cgroups=(Cgroups.V2,)), settings)
    assert message.startswith("mine does not run with cgroups hybrid, which this machine has\n  hint: ")


@pytest.mark.parametrize(
    ("there", "taken", "cure"),
    [
        (Cgroups.V1, (Cgroups.V1, Cgroups.V2), None),
        (Cgroups.V1, (Cgroups.V2,), "boot with systemd.unified_cgroup_hierarchy=1; it runs with v2"),
        (Cgroups.HYBRID, (Cgroups.V1, Cgroups.V2), "boot with systemd.unified_cgroup_hierarchy=1; it runs with v1 and"),
        (Cgroups.V2, (Cgroups.V1,), "boot with systemd.unified_cgroup_hierarchy=0 and without cgroup_no_v1"),
        (Cgroups.V2, (Cgroups.HYBRID,), "boot with systemd.unified_cgroup_hierarchy=0 and cgroup_no_v1="),
    ],
)
def test_what_gives_a_machine_other_cgroups(
    profile: Profile,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    there: Cgroups,
    taken: tuple[Cgroups, ...],
    cure: str | None,
) -> None:
    monkeypatch.setattr(installation, "cgroup_version", lambda: there)
    messages = told(attrs.evolve(profile, cgroups=taken), settings)
    assert [message.partition("hint: ")[2].startswith(cure or "") for message in messages] == [True] * bool(cure)


@pytest.mark.parametrize(
    ("mounts", "controllers", "version"),
    [
        ("1 2 0:1 / {} rw - cgroup2 cgroup2 rw", "cpu io", Cgroups.V2),
        ("1 2 0:1 / {} rw - cgroup2 cgroup2 rw\n1 2 0:2 / /c/cpu rw - cgroup cgroup rw,cpu", "io", Cgroups.HYBRID),
        ("1 2 0:1 / {} rw - cgroup2 cgroup2 rw\n1 2 0:2 / /c/cpu rw - cgroup cgroup rw,cpu", "", Cgroups.V1),
        ("1 2 0:2 / /c/cpu rw - cgroup cgroup rw,cpu", "", Cgroups.V1),
    ],
)
def test_versions_of_cgroups_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: str, controllers: str, version: Cgroups
) -> None:
    (tmp_path / "cgroup.controllers").write_text(controllers)
    monkeypatch.setattr(installation, "_mount_table", lambda: mounts.format(tmp_path).splitlines())
    assert installation.cgroup_version() is version


def test_without_root(profile: Profile, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    cure = "run it with sudo; the rings transport and agent run without"
    assert told(profile, settings) == [f"not root, which shims need\n  hint: {cure}"]


def test_a_configuration_file_is_passed_as_the_profile_says(tmp_path: Path) -> None:
    found = Installation(load("kata"), Path("/shim"), tmp_path / "configuration.toml")
    assert found.environment["KATA_CONF_FILE"] == str(tmp_path / "configuration.toml")
    assert found.options(tmp_path) == (
        "runtimeoptions.v1.Options",
        {"config_path": str(tmp_path / "configuration.toml")},
    )


def test_a_runtime_that_needs_arguments_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "runsc"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    kind, fields = Installation(load("runsc"), Path("/shim")).options(tmp_path)
    assert kind == "containerd.runc.v1.Options"
    assert fields["root"] == f"{tmp_path}/state"
    script = Path(fields["binary_name"]).read_text()
    assert script == f'#!/bin/sh\nexec {program} --platform=ptrace --network=none --ignore-cgroups "$@"\n'


def test_programs_and_arguments_can_have_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "with spaces" / "my runtime"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    program.chmod(0o700)
    options = Options(OptionsType.RUNC, binary=str(program), arguments=("--word=$HOME", "two words"))
    profile = Profile("mine", "", "/shim", "io.containerd.mine.v2", "build it", options=options)
    _, fields = Installation(profile, Path("/shim")).options(tmp_path)
    said = subprocess.run([fields["binary_name"], "create"], capture_output=True, text=True, check=True).stdout
    assert said == "<--word=$HOME><two words><create>"


def test_the_version_of_our_own_runtime_is_kvtests() -> None:
    profile = load("reference")
    assert version_of(profile, Path(sys.executable).with_name(profile.shim)) == metadata.version("kvtest")


def test_a_busybox_that_needs_libraries_is_refused(tmp_path: Path) -> None:
    assert rootfs._has_interpreter(Path(os.path.realpath("/bin/sh")))
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert rootfs._has_interpreter(tmp_path / "script")


def test_a_program_of_its_options_is_missing(profile: Profile, settings: Settings) -> None:
    named = attrs.evolve(profile, options=Options(OptionsType.RUNC, binary="absent-runc"))
    assert told(named, settings) == ["there is no absent-runc\n  hint: build it"]


def test_a_configuration_file_for_one_that_has_none(profile: Profile, settings: Settings) -> None:
    given = attrs.evolve(settings, runtime_config=Path("/etc/passwd"))
    (problem,) = told(profile, given)
    assert problem.startswith("--runtime-config /etc/passwd: the profile mine has no configuration file\n")


def test_our_shim_is_that_of_this_kvtest(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = load("reference")
    other = tmp_path / profile.shim
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert shim_of(profile, settings) == Path(sys.executable).with_name(profile.shim)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert shim_of(profile, settings) == other
