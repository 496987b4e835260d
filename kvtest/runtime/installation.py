# SPDX-License-Identifier: Apache-2.0
"""A runtime as it is on this machine: its profile, where its shim is, and what is missing to run it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import frozen

from kvtest.errors import HostError, KvtestError, MissingToolError, SettingError
from kvtest.ownership import run
from kvtest.runtime import rootfs
from kvtest.runtime.profile import Cgroups, Feature, OptionsType, Profile
from kvtest.runtime.profile import load as load_profile
from kvtest.settings import Settings

_VERSION = re.compile(r"\b(\d+(?:\.\d+)+)")
_VERSION_SECONDS = 10.0
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The first that a runtime takes is told: systemd 258 and newer have version 2 alone.
_CGROUP_CURES = {
    Cgroups.V2: "boot with systemd.unified_cgroup_hierarchy=1",
    Cgroups.V1: "boot with systemd.unified_cgroup_hierarchy=0 and without cgroup_no_v1, below a systemd before 258",
    Cgroups.HYBRID: "boot with systemd.unified_cgroup_hierarchy=0 and cgroup_no_v1=hugetlb, below a systemd before 258",
}


def find_program(name: str) -> str | None:
    """Return where a program is: on ``PATH``, or where administrators have them."""
    return shutil.which(name, path=search_path())


def search_path() -> str:
    """Return where programs are looked for, as ``PATH`` has it."""
    # What comes with kvtest is beside its Python, which need not be on PATH.
    return f"{os.environ.get('PATH', '')}:{Path(sys.executable).parent}:{_SYSTEM_PATH}"


@frozen
class Installation:
    """A runtime that can be started.

    Args:
        profile: What it is.
        shim: Path of its shim.
        configuration: Its configuration file, if it has one.
    """

    profile: Profile
    shim: Path
    configuration: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What is added to the shim's environment."""
        found = dict(self.profile.environment)
        # Shims look up runtimes on PATH, which for users without root may lack what administrators have.
        found["PATH"] = search_path()
        configured = self.profile.configuration
        if configured is not None and configured.variable and self.configuration is not None:
            found[configured.variable] = str(self.configuration)
        return found

    def options(self, run_directory: Path) -> tuple[str, dict[str, str]]:
        """Return what the shim is told: the type of the message, and its fields.

        Args:
            run_directory: Where to put what they need.
        """
        options = self.profile.options
        fields: dict[str, str] = {}
        if options.type is OptionsType.RUNC:
            if options.binary is not None:
                fields["binary_name"] = str(self._binary(run_directory))
            if options.root is not None:
                fields["root"] = options.root.format(run=run_directory)
        elif options.type is OptionsType.RUNTIME and self.configuration is not None:
            fields["config_path"] = str(self.configuration)
        return options.type, fields

    def _binary(self, run_directory: Path) -> Path:
        options = self.profile.options
        assert options.binary is not None
        program = find_program(options.binary)
        if program is None:
            raise MissingToolError(f"there is no {options.binary}", hint=_cure(self.profile, options.binary))
        if not options.arguments:
            return Path(program)
        script = run_directory / "runtime"
        script.write_text(f'#!/bin/sh\nexec {shlex.join([program, *options.arguments])} "$@"\n')
        script.chmod(0o700)
        return script


def find(settings: Settings) -> Installation:
    """Return the runtime that the settings name.

    Raises:
        KvtestError: The first thing that is missing or wrong.
    """
    profile = load_profile(settings.runtime)
    problem = next(problems(profile, settings), None)
    if problem is not None:
        raise problem
    return Installation(profile, shim_of(profile, settings), configuration_of(profile, settings))


def root_is_mount_point() -> bool:
    """Whether our root is one, so that its propagation can be changed, as runc does for each container (mount(2))."""
    return any(line.split(" ")[4] == "/" for line in _mount_table())


def problems(profile: Profile, settings: Settings) -> Iterator[KvtestError]:
    """Yield everything that keeps a runtime from being run on this machine, with the cures."""
    if os.geteuid() != 0:
        yield HostError(
            "not root, which shims need", hint="run it with sudo; the rings transport and agent run without"
        )
    found = True
    questions: tuple[Callable[[], object], ...] = (
        lambda: shim_of(profile, settings),
        lambda: configuration_of(profile, settings),
        rootfs.find_busybox,
    )
    for ask in questions:
        try:
            ask()
        except KvtestError as error:
            found = False
            yield error
    needed = {program.name for program in profile.programs}
    for name in sorted(needed | ({profile.options.binary} if profile.options.binary is not None else set())):
        if find_program(name) is None:
            found = False
            yield MissingToolError(f"there is no {name}", hint=_cure(profile, name))
    if Feature.INIT_ON_HOST in profile.features and not root_is_mount_point():
        yield HostError(
            f"{profile.name} cannot make containers below this root, which is no mount point (a chroot?)",
            hint="run it outside of the chroot, or enter that with pivot_root(8)",
        )
    cgroups = cgroup_version()
    if cgroups not in profile.cgroups:
        yield HostError(
            f"{profile.name} does not run with cgroups {cgroups}, which this machine has",
            hint=f"{_cgroup_cure(profile)}; it runs with {' and '.join(profile.cgroups)}",
        )
    if found and profile.minimum_version is not None:
        yield from _too_old(profile, shim_of(profile, settings))


def _cgroup_cure(profile: Profile) -> str:
    return next((cure for version, cure in _CGROUP_CURES.items() if version in profile.cgroups), "run another runtime")


def cgroup_version() -> Cgroups:
    """Return which version of cgroups this machine has (cgroups(7))."""
    mounts = {line.split(" - ")[1].split(" ")[0]: line.split(" ")[4] for line in _mount_table() if " - cgroup" in line}
    if "cgroup" not in mounts:
        return Cgroups.V2
    with contextlib.suppress(KeyError, OSError):
        if (Path(mounts["cgroup2"]) / "cgroup.controllers").read_text().strip():
            return Cgroups.HYBRID
    return Cgroups.V1


def _mount_table() -> list[str]:
    return Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()


def shim_of(profile: Profile, settings: Settings) -> Path:
    """Return where the shim is.

    Raises:
        MissingToolError: It is nowhere, or no program.
    """
    wanted = settings.shim or profile.shim
    hint = "--shim takes the path of one" if settings.shim else profile.cure
    if "/" not in wanted:
        # Ours is that of this kvtest; PATH may have another's first.
        ours = Path(sys.executable).with_name(wanted) if profile.own else None
        program = str(ours) if ours is not None and os.access(ours, os.X_OK) else find_program(wanted)
        if program is None:
            raise MissingToolError(f"there is no {wanted}, the shim of {profile.name}", hint=hint)
        return Path(program)
    path = Path(wanted)
    if not path.exists():
        raise MissingToolError(f"there is no {path}, the shim of {profile.name}", hint=hint)
    if path.is_dir():
        raise MissingToolError(f"{path} is a directory, and no shim of {profile.name}", hint=_shim_in(path, profile))
    if not stat.S_ISREG(path.stat().st_mode) or not os.access(path, os.X_OK):
        raise MissingToolError(f"{path}, the shim of {profile.name}, is not a program", hint=f"chmod +x {path}")
    return path


def _shim_in(directory: Path, profile: Profile) -> str:
    """Return a hint to which program of a directory may be meant."""
    found = sorted(path for path in directory.glob("containerd-shim-*") if os.access(path, os.X_OK))
    if not found:
        return "--shim takes the path of the program itself"
    usual = directory / Path(profile.shim).name
    return f"did you mean {usual if usual in found else found[0]}?"


def configuration_of(profile: Profile, settings: Settings) -> Path | None:
    """Return the configuration file, if the runtime has one.

    Raises:
        MissingToolError: There is none.
        SettingError: One is given, and the runtime does not have such.
    """
    if settings.runtime_config is not None:
        if not settings.runtime_config.is_file():
            raise MissingToolError(f"there is no {settings.runtime_config}", hint="--runtime-config takes a file")
        if profile.configuration is None:
            raise SettingError(
                f"--runtime-config {settings.runtime_config}: the profile {profile.name} has no configuration file",
                hint="a profile of your own can have one: [configuration]",
            )
        return settings.runtime_config
    if profile.configuration is None:
        return None
    paths = profile.configuration.paths
    for path in paths:
        if Path(path).is_file():
            return Path(path)
    raise MissingToolError(
        f"there is no configuration file of {profile.name}",
        hint=f"give it with --runtime-config PATH, or put it at {paths[0]}" if paths else "--runtime-config PATH",
    )


def version_of(profile: Profile, shim: Path) -> str | None:
    """Return the version of what is installed, ``None`` if it does not tell."""
    program = profile.version_of and find_program(profile.version_of)
    completed = run([program or shim, "--version"], deadline=_VERSION_SECONDS)
    found = _VERSION.search(completed.stdout or completed.stderr)
    return found[1] if completed.status == 0 and found else None


def _too_old(profile: Profile, shim: Path) -> Iterator[KvtestError]:
    version = version_of(profile, shim)
    if version is None or profile.minimum_version is None:
        return
    if _numbers(version) < _numbers(profile.minimum_version):
        name = profile.version_of or shim
        yield MissingToolError(
            f"{name} is version {version}, {profile.minimum_version} or newer is needed", hint=profile.cure
        )


def _numbers(version: str) -> list[int]:
    return [int(word) for word in version.split(".")]


def _cure(profile: Profile, program: str) -> str:
    return next((needed.cure for needed in profile.programs if needed.name == program), profile.cure)
