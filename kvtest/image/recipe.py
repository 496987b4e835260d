# SPDX-License-Identifier: Apache-2.0
"""What images are made of: recipes and kernels, read from TOML."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import Factory, frozen

from kvtest.errors import RecipeError, UnknownNameError
from kvtest.resources import recipes_directory
from kvtest.start import AgentStart
from kvtest.typed import structure

AGENT_RECIPE = "agent"
"""The recipe of guests with an agent; the setting ``agent`` puts another program into it."""

_PATH_PREFIX = "path:"
_SUITE = re.compile(r"[a-z][a-z0-9-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[\w.+~:-]+)?")  # Debian policy, 5.6.1


@frozen
class Modules:
    """Kernel modules of a guest.

    Args:
        required: Loaded at boot in this order; a kernel has to have them.
        optional: Loaded after those, where the kernel has them.
        attempted: Loaded after those too; one that the processor has not what it takes for stays out.
        available: Present for ``modprobe``, where the kernel has them.
    """

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    attempted: tuple[str, ...] = ()
    available: tuple[str, ...] = ()


@frozen
class Recipe:
    """A root file system.

    Args:
        suite: Release of the distribution.
        packages: Packages to unpack, with their dependencies.
        remove: Shell patterns of what to leave out.
        links: Symbolic links to add, from name to target.
        modules: Kernel modules.
        agent: The guest agent that runs in it: ``reference``, or the path of a program such as kata-agent.
        agent_start: What that is in its guest: a service beside kvtest's control daemon, or the first process.
    """

    suite: str
    packages: tuple[str, ...]
    remove: tuple[str, ...] = ()
    links: dict[str, str] = Factory(dict)
    modules: Modules = Modules()
    agent: str | None = None
    agent_start: AgentStart = AgentStart.SERVICE


@frozen
class Kernel:
    """A kernel to boot guests with: from a package, or the user's own.

    Args:
        suite: Release of the distribution that has the package.
        package: The package; what it depends on is unpacked too.
        path: Directory with ``bzImage`` or ``vmlinuz``, and ``lib/modules/VERSION`` or ``modules/VERSION``.
    """

    suite: str | None = None
    package: str | None = None
    path: Path | None = None


def load_recipe(name: str) -> Recipe:
    """Return a recipe.

    Args:
        name: Name of a shipped one, or the path of a TOML file.

    Raises:
        UnknownNameError: There is none of that name.
        RecipeError: It cannot be read; the message names the key.
    """
    path = Path(name) if name.endswith(".toml") else recipes_directory() / f"{name}.toml"
    if name.endswith(".toml") and not path.is_file():
        raise RecipeError(f"there is no file {path} for the guest image")
    if not path.is_file():
        shipped = [entry.stem for entry in recipes_directory().glob("*.toml") if entry.stem != "kernels"]
        raise UnknownNameError("guest image", name, shipped)
    recipe = structure(Recipe, _on_its_base(_read(path), path), where=str(path), error=RecipeError)
    for problem in _problems(recipe):
        raise RecipeError(f"{path}: {problem}")
    return recipe


def _on_its_base(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a recipe's table on top of that of the shipped recipe that its key ``base`` names, if it has one."""
    base = table.pop("base", None)
    if base is None:
        return table
    shipped = {entry.stem: entry for entry in recipes_directory().glob("*.toml") if entry.stem != "kernels"}
    below = shipped.get(base) if isinstance(base, str) else None
    if below is None or below == path:
        raise RecipeError(f"{path}: 'base' is {base!r}, which is no other recipe", hint='such as base = "guest"')
    return _merged(_on_its_base(_read(below), below), table)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return two tables as one: lists are joined, tables merged, anything else of ``above`` wins."""
    result = dict(below)
    for key, value in above.items():
        if isinstance(value, list) and isinstance(below.get(key), list):
            result[key] = [*below[key], *value]
        elif isinstance(value, dict) and isinstance(below.get(key), dict):
            result[key] = _merged(below[key], value)
        else:
            result[key] = value
    return result


def _problems(recipe: Recipe) -> Iterator[str]:
    """Yield what is wrong with values that have the right types."""
    if not _SUITE.fullmatch(recipe.suite):
        yield f"suite {recipe.suite!r} is no release of a distribution"
    if not recipe.packages:
        yield "'packages' is empty"
    for package in recipe.packages:
        if not _PACKAGE.fullmatch(package):
            yield f"{package!r} is no name of a package"
    for name in recipe.links:
        if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            yield f"the link {name!r} has to be named from the image's root, without a leading slash and '..'"


def load_kernels() -> dict[str, Kernel]:
    """Return the shipped kernels by name.

    Raises:
        RecipeError: An entry cannot be used.
    """
    path = recipes_directory() / "kernels.toml"
    return {
        name: _checked(structure(Kernel, table, where=f'{path} ["{name}"]', error=RecipeError), name)
        for name, table in _read(path).items()
    }


def find_kernel(name: str) -> Kernel:
    """Return a kernel.

    Args:
        name: Name of a shipped one, or ``path:DIRECTORY``.

    Raises:
        UnknownNameError: There is none of that name.
        RecipeError: There is no kernel in the directory.
    """
    if name.startswith(_PATH_PREFIX):
        directory = Path(name.removeprefix(_PATH_PREFIX)).expanduser().absolute()
        if not directory.is_dir():
            raise RecipeError(
                f"no directory {directory} for the guest kernel {name!r}",
                hint="path: takes a directory with bzImage and lib/modules/VERSION",
            )
        return Kernel(path=directory)
    kernels = load_kernels()
    if name not in kernels:
        raise UnknownNameError("guest kernel", name, kernels)
    return kernels[name]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"could not read {path}: {error}") from error


def _checked(kernel: Kernel, name: str) -> Kernel:
    packaged = kernel.suite is not None and kernel.package is not None
    if packaged == (kernel.path is not None):
        raise RecipeError(f"the kernel {name!r} needs either suite and package, or path")
    return kernel
