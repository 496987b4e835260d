# SPDX-License-Identifier: Apache-2.0
"""``kvtest run --host``: what of a run is the user's own, and where that is on the other machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attrs import field, frozen

from kvtest.conformance import Ring, with_others
from kvtest.errors import UsageError
from kvtest.host.installed import is_editable, plugins
from kvtest.host.parcels import Parcel, of_directory, of_file, of_tests
from kvtest.image.program import read_program
from kvtest.image.recipe import find_kernel, load_recipe
from kvtest.resources import suites_directory
from kvtest.settings import NONE, LoadedSettings, Setting

# What is about this machine, and has a place of its own on the other.
_OURS = ("cache", "results", "lab_image", "ssh_key", "ssh_known_hosts")
# Whose files are needed there. Of kernels, recipes and agents of our images it is the images.
_FILES = ("agent_kernel", "agent_initrd", "agent_image", "runtime_config")
_PROGRAMS = ("shim",)
_NAMES = ("runtime",)
_DIRECTORIES = ("requirements",)


def _absolute(path: str) -> Path:
    """Return a path without ``..``, as it has to be below a directory that is brought."""
    return Path(os.path.abspath(path))


def shipped(name: str) -> str | None:
    """Return the name everywhere of what is to be run, if it is of the shipped suites: a ring, or a path in suites/."""
    path, separator, test = name.partition("::")
    suites = suites_directory()
    if (suites / path / "__init__.py").is_file() and "/" not in path:
        return name
    if path.startswith("suites/") and (suites.parent / path).exists():
        return name
    if (here := _absolute(path)).is_relative_to(suites) and here.exists():
        return f"suites/{here.relative_to(suites)}{separator}{test}"
    return None


def rings_of(what: Sequence[str]) -> set[Ring]:
    """Return the rings of what is to be run: all where nothing is named, or tests of somebody's own, which may use any.

    Args:
        what: Rings, files or tests.
    """
    names = {(shipped(name) or "").removeprefix("suites/").partition("::")[0].partition("/")[0] for name in what}
    return {Ring(name) for name in names} if names and names.issubset(Ring) else set(Ring)


@frozen
class Belongings:
    """What of a run is the user's own.

    Args:
        tests: The tests, if any are.
        settings: Files and directories by the setting that names them.
    """

    tests: Parcel | None = None
    settings: dict[str, tuple[tuple[Path, Parcel], ...]] = field(factory=dict)

    @classmethod
    def of(cls, what: Sequence[str], loaded: LoadedSettings) -> Belongings:
        """Return what is the user's own.

        Args:
            what: Rings, files or tests.
            loaded: The settings of the run.

        Raises:
            UsageError: Something is not there, or cannot be brought; or a requirement of the user's is wrong.
            RecipeError: A kernel, recipe or agent of the user's cannot be used.
        """
        paths = [_absolute(name.partition("::")[0]) for name in what if shipped(name) is None]
        for path in paths:
            if not path.exists():
                raise UsageError(f"there is no {path}", hint="give rings, paths in suites/, or paths of your own tests")
        for one in plugins() if paths else ():
            if is_editable(one):
                name = one.metadata["Name"]
                raise UsageError(
                    f"the plugin {name} is installed as editable, and cannot be brought with the tests that may use it",
                    hint="install it from its wheel: pip install --no-deps DIRECTORY",
                )
        for kernel in loaded.settings.guest_kernel:
            find_kernel(kernel)
        load_recipe(loaded.settings.guest_image)
        if loaded.settings.agent is not None:
            read_program(loaded.settings.agent)
        found = {setting.name: _of_setting(setting, text, str(origin)) for setting, text, origin in loaded.changed()}
        with_others(*loaded.settings.requirements)  # else it would be told there, when all has been brought
        return cls(of_tests(paths) if paths else None, {name: parcels for name, parcels in found.items() if parcels})

    @property
    def parcels(self) -> tuple[Parcel, ...]:
        """What is to be brought."""
        of_settings = [parcel for parcels in self.settings.values() for _, parcel in parcels]
        return (*([self.tests] if self.tests is not None else []), *of_settings)

    def named(self, what: Sequence[str], base: str) -> Iterator[str]:
        """Yield the names there of what is to be run.

        Args:
            what: As of :meth:`of`.
            base: The directory there that keeps what is brought.
        """
        for name in what:
            path, separator, test = name.partition("::")
            known = shipped(name)
            if known is not None:
                yield known
            elif self.tests is not None:
                yield self.tests.there(_absolute(path), base) + separator + test

    def flags(self, loaded: LoadedSettings, base: str) -> Iterator[str]:
        """Yield what is not left at its default, as flags of a run there.

        Args:
            loaded: As of :meth:`of`.
            base: As of :meth:`named`.
        """
        for setting, text, _ in loaded.changed():
            if setting.name in self.settings:
                there = [parcel.there(path, base) for path, parcel in self.settings[setting.name]]
                yield f"{setting.flag}={','.join(there)}"
            elif setting.name not in _OURS:
                yield f"{setting.flag}={text}"


def _of_setting(setting: Setting, text: str, who: str) -> tuple[tuple[Path, Parcel], ...]:
    of: Callable[[Path, str], Parcel] = of_directory if setting.name in _DIRECTORIES else of_file
    named = setting.name in (*_PROGRAMS, *_NAMES) and "/" in text
    if text == NONE or not (named or setting.name in (*_FILES, *_DIRECTORIES)):
        return ()
    paths = [Path(one) for one in (text.split(",") if setting.name in _DIRECTORIES else [text])]
    return tuple((path, of(path, who)) for path in paths)
