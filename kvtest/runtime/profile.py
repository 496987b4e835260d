# SPDX-License-Identifier: Apache-2.0
"""Profiles: what is to be known of a runtime to test it, in TOML.

A profile states how a runtime differs from others where it may. What it may not differ in is not for a profile to say.
"""

from __future__ import annotations

import math
import re
import tomllib
from enum import StrEnum
from pathlib import Path

import attrs

from kvtest.errors import ProfileError, UnknownNameError
from kvtest.typed import structure

_DIRECTORY = Path(__file__).with_name("profiles")
_SUFFIX = ".toml"
_VERSION = re.compile(r"\d+(\.\d+)*")


class Feature(StrEnum):
    """What not every runtime can do."""

    PAUSE = "pause"
    STATS = "stats"
    PIDS = "pids"  # the IDs of a container's processes on the host
    RESIZE = "resize"  # terminals that change their size
    UPDATE = "update"  # limits that change while a container runs
    OOM = "oom"  # it tells of processes that were killed for want of memory
    GROUP = "group"  # several containers served by one shim
    HOOKS = "hooks"  # OCI hooks, run on the host
    INIT_ON_HOST = "init-on-host"  # the container's first process is one of the host's


class Cgroups(StrEnum):
    """Versions of cgroups that a machine can have."""

    V1 = "v1"
    HYBRID = "hybrid"  # controllers of both versions
    V2 = "v2"


class OptionsType(StrEnum):
    """The message that a shim is given its options in."""

    NONE = "none"
    RUNC = "containerd.runc.v1.Options"
    RUNTIME = "runtimeoptions.v1.Options"


@attrs.frozen
class Options:
    """What a shim is told when it creates a container.

    Args:
        type: The message.
        binary: Of runc's options: the program that makes containers, found on ``PATH``.
        arguments: What that program is always given first; a script of ours passes them on.
        root: Of runc's options: where it keeps its state; ``{run}`` is a directory that only the pod has.
    """

    type: OptionsType = OptionsType.NONE
    binary: str | None = None
    arguments: tuple[str, ...] = ()
    root: str | None = None


@attrs.frozen
class ConfigurationFile:
    """The runtime's configuration file.

    Args:
        paths: Where it is, the first that exists; ``--runtime-config`` goes before them.
        variable: The environment variable that tells the shim, if it looks at one.
        option: Whether it is told in its options as well.
    """

    paths: tuple[str, ...] = ()
    variable: str | None = None
    option: bool = False


@attrs.frozen
class GuestAddress:
    """Where something in a pod's virtual machine listens.

    Args:
        address: As of an agent; ``{pod}`` and the groups of ``found`` are filled in.
        found: A regular expression that is searched for in the command line of the virtual machine.
    """

    address: str
    found: str | None = None


@attrs.frozen
class DebugConsole(GuestAddress):
    """A shell in a pod's virtual machine, run by the agent itself, from which tests do harm inside.

    Args:
        address: Where it is; see :class:`GuestAddress`.
        found: See there.
        cure: How to have one, where it has to be asked for: nobody at the address is no error then.
        panic: What makes the guest's kernel panic.
        power_off: What turns the guest off.
    """

    cure: str | None = None
    panic: str = "echo c >/proc/sysrq-trigger"
    power_off: str = "echo o >/proc/sysrq-trigger"


@attrs.frozen
class VirtualMachine:
    """How a pod's virtual machine is found.

    Args:
        process: A shell pattern of its command line; ``{pod}`` is the pod's ID.
        console: The debug console in it.
        agent: The agent in it, of which the shim is one client of many.
        hypervisor: What a configuration file as Kata Containers has it calls the hypervisor of such processes.
    """

    process: str
    console: DebugConsole | None = None
    agent: GuestAddress | None = None
    hypervisor: str | None = None


@attrs.frozen
class Program:
    """A program that has to be there besides the shim.

    Args:
        name: Its name.
        cure: How to get it.
    """

    name: str
    cure: str


@attrs.frozen
class Profile:
    """A runtime.

    Args:
        name: What it is called; that of the file.
        description: What it is, in one line.
        shim: The shim: a program on ``PATH``, or a path.
        runtime: What containerd calls it, such as ``io.containerd.runc.v2``.
        cure: How to get the shim.
        options: What it is told.
        programs: What else has to be there.
        environment: What is added to the shim's environment.
        configuration: Its configuration file.
        vm: How its virtual machine is found, if it has one.
        owns: Shell patterns of paths that a pod may have on the host; ``{namespace}``, ``{pod}``, ``{container}`` and
            ``{run}``, a directory that only the pod has, are filled in.
        logs: Shell patterns, as in ``owns``, of files in which the runtime tells what it does, which are kept among the
            artifacts of a test that fails.
        status_of_lost_vm: Exit status that containers are reported with when the virtual machine is gone.
        status_of_delete: Exit status that ``delete`` reports.
        detection_bound: Seconds until the shim has noticed that a virtual machine or container is gone.
        call_bound: Seconds that a short call may take, an exec of ``echo`` among them, while others wait.
        own: Whether it is kvtest's own, which takes kvtest's settings as variables and whose pods are clones.
        cleanup_bound: Seconds until everything is cleaned up after a shim or a virtual machine has died.
        features: What it can do.
        cgroups: The versions of cgroups that it runs with.
        minimum_version: The oldest version that is known to work; ``None`` if it was never looked at.
        version_of: The program that tells the version with ``--version``; the shim if ``None``.
    """

    name: str
    description: str
    shim: str
    runtime: str
    cure: str
    options: Options = Options()
    programs: tuple[Program, ...] = ()
    environment: dict[str, str] = attrs.field(factory=dict, hash=False)
    configuration: ConfigurationFile | None = None
    vm: VirtualMachine | None = None
    owns: tuple[str, ...] = ()
    logs: tuple[str, ...] = ()
    status_of_lost_vm: int = 255
    status_of_delete: int = 137
    detection_bound: float = 5.0
    cleanup_bound: float = 5.0
    call_bound: float = 2.0
    own: bool = False
    features: tuple[Feature, ...] = ()
    cgroups: tuple[Cgroups, ...] = tuple(Cgroups)
    minimum_version: str | None = None
    version_of: str | None = None


def names() -> list[str]:
    """Return the names of the shipped profiles."""
    return sorted(path.stem for path in _DIRECTORY.glob(f"*{_SUFFIX}"))


def load(runtime: str) -> Profile:
    """Return a profile.

    Args:
        runtime: The name of a shipped one, or the path of a file of the user's own.

    Raises:
        UnknownNameError: There is none of that name.
        ProfileError: The file cannot be read, or has something wrong in it.
    """
    own = "/" in runtime or runtime.endswith(_SUFFIX)
    path = Path(runtime) if own else _DIRECTORY / f"{runtime}{_SUFFIX}"
    if not own and not path.is_file():
        raise UnknownNameError("runtime", runtime, names())
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(f"cannot read the profile {path}: {error.strerror}") from error
    except ValueError as error:
        raise ProfileError(f"{path} is not valid TOML: {error}") from error
    profile = structure(Profile, {"name": path.stem, **table}, where=str(path), error=ProfileError)
    _check(profile, path)
    return profile


def _check(profile: Profile, path: Path) -> None:
    for bound in ("call_bound", "detection_bound", "cleanup_bound"):
        if not 0 < getattr(profile, bound) < math.inf:  # nor is it no number
            raise ProfileError(f"{path}: {bound!r} must be more than 0 seconds, and not for ever")
    if profile.minimum_version is not None and not _VERSION.fullmatch(profile.minimum_version):
        raise ProfileError(
            f"{path}: 'minimum_version' is {profile.minimum_version!r}", hint="numbers with dots, such as 1.1.12"
        )
    for name, value in profile.environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise ProfileError(f"{path}: 'environment' has {name!r}, which no environment can have (environ(7))")
    if profile.runtime.count(".") < 1 or not all(profile.runtime.split(".")):
        raise ProfileError(
            f"{path}: 'runtime' is {profile.runtime!r}, of which containerd makes no program's name",
            hint="such as io.containerd.runc.v2 for containerd-shim-runc-v2",
        )
    if profile.options.type is not OptionsType.RUNC and (profile.options.binary or profile.options.root):
        raise ProfileError(
            f"{path}: 'options.binary' and 'options.root' are of {OptionsType.RUNC}",
            hint=f'options.type = "{OptionsType.RUNC}"',
        )
    if profile.options.arguments and profile.options.binary is None:
        raise ProfileError(f"{path}: 'options.arguments' needs 'options.binary'")
    for what in ("console", "agent"):
        place: GuestAddress | None = getattr(profile.vm, what, None)
        if place is not None:
            _check_address(place, f"vm.{what}", path)
    _check_filled_in("options.root", profile.options.root or "", ("run",), path)
    _check_filled_in("vm.process", profile.vm.process if profile.vm is not None else "", ("pod",), path)
    for key in ("owns", "logs"):
        for pattern in getattr(profile, key):
            _check_filled_in(key, pattern, ("namespace", "pod", "container", "run"), path)
            _check_of_one_pod(key, pattern, path)


def _check_filled_in(key: str, pattern: str, known: tuple[str, ...], path: Path) -> None:
    try:
        pattern.format(**dict.fromkeys(known, ""))
    except (KeyError, IndexError, ValueError):
        *others, last = (f"{{{name}}}" for name in known)
        names = f"{', '.join(others)} and {last}" if others else last
        raise ProfileError(f"{path}: {key!r} has {pattern!r}", hint=f"what is filled in is {names}") from None


def _check_of_one_pod(key: str, pattern: str, path: Path) -> None:
    # What is owned is removed when a run is killed, and what is logged is told of a test that fails.
    if not any(name in pattern for name in ("{pod}", "{container}", "{run}")):
        raise ProfileError(
            f"{path}: {key!r} has {pattern!r}, which is not of one pod alone", hint="put {pod} or {container} into it"
        )


def _check_address(place: GuestAddress, key: str, path: Path) -> None:
    try:
        groups = re.compile(place.found or "").groupindex
    except re.error as error:
        raise ProfileError(f"{path}: '{key}.found' is no regular expression: {error}") from error
    try:
        place.address.format(pod="", **dict.fromkeys(groups, ""))
    except (KeyError, IndexError, ValueError):
        known = ", ".join(f"{{{name}}}" for name in ("pod", *groups))
        raise ProfileError(
            f"{path}: '{key}.address' is {place.address!r}",
            hint=f"what is filled in is {known}: the pod's ID, and the named groups of '{key}.found'",
        ) from None
