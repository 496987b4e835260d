# SPDX-License-Identifier: Apache-2.0
"""All requirements of some directories, by ID."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from kvtest.conformance.files import read
from kvtest.conformance.requirements import Requirement
from kvtest.errors import UnknownNameError, UsageError


class Catalogue:
    """Requirements by ID, in the order of their files.

    Args:
        requirements: The requirements; an ID appears once.
        retired: The IDs that are not to be used again, and why each was given up.
    """

    def __init__(self, requirements: Mapping[str, Requirement], retired: Mapping[str, str] | None = None) -> None:
        self._requirements = dict(requirements)
        self.retired = dict(retired or {})

    @classmethod
    def load(cls, *directories: Path) -> Catalogue:
        """Return the requirements of every ``*.toml`` file in the directories.

        Args:
            directories: Where to look, not below; a vendor's own go beside those of kvtest.

        Raises:
            UsageError: A directory or file cannot be read, or holds something wrong: an unknown key, a missing one, a
                bad, repeated or retired ID, a source in a document that is not described.
        """
        found: dict[str, Requirement] = {}
        retired: dict[str, str] = {}
        files: dict[str, Path] = {}
        for directory in directories:
            for file in _toml_files(directory):
                content = read(file)
                for name in (*(requirement.id for requirement in content.requirements), *content.retired):
                    if name in files:
                        was = "retired" if name in retired else "already"
                        raise UsageError(
                            f"{file}: the requirement {name} is {was} in {files[name]}",
                            hint="give one of them the next free number",
                        )
                    files[name] = file
                    if name in content.retired:
                        retired[name] = content.retired[name]
                found |= {requirement.id: requirement for requirement in content.requirements}
        return cls(found, retired)

    def __getitem__(self, name: str) -> Requirement:
        """Return the requirement of that ID.

        Raises:
            UsageError: It has been given up.
            UnknownNameError: There is none; the nearest ID is suggested.
        """
        if name in self.retired:
            raise UsageError(f"the requirement {name} is retired: {self.retired[name]}")
        try:
            return self._requirements[name]
        except KeyError:
            raise UnknownNameError("requirement", name, self._requirements) from None

    def __contains__(self, name: object) -> bool:
        return name in self._requirements

    def __iter__(self) -> Iterator[Requirement]:
        return iter(self._requirements.values())

    def __len__(self) -> int:
        return len(self._requirements)


def _toml_files(directory: Path) -> list[Path]:
    try:
        return sorted(file for file in directory.iterdir() if file.suffix == ".toml")
    except OSError as error:
        raise UsageError(f"cannot read the directory of requirements {directory}: {error.strerror}") from error
