# SPDX-License-Identifier: Apache-2.0
"""What users bring to another machine besides kvtest: files that settings name, and tests of their own."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import frozen

from kvtest.cache import fingerprint
from kvtest.errors import HostError, UsageError
from kvtest.host.cargo import Tree, file_of

_MOST_BYTES = 256 << 20
_MOST_FILES = 10_000
_CONFIGURATIONS = ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
_LOCAL_PLUGIN = "conftest.py"
_DROP_INS = "config.d"  # Kata's, beside its configuration file


@frozen
class Parcel:
    """Files that belong together.

    Args:
        root: The directory here that they are below.
        tree: The files, and where that directory is on the other machine.
    """

    root: Path
    tree: Tree

    def there(self, path: Path, base: str) -> str:
        """Return where one of the files is on the other machine.

        Args:
            path: The file, or a directory with files.
            base: The directory there that keeps what is brought.
        """
        return f"{base}/{self.tree.place}/{path.relative_to(self.root)}".removesuffix("/.")


def of_file(path: Path, who: str) -> Parcel:
    """Return a file, with the drop-in files of a configuration.

    Args:
        path: The file.
        who: Who names it, for messages.

    Raises:
        UsageError: It cannot be brought.
    """
    if not path.is_file():
        raise UsageError(f"{who}: there is no file {path} to be brought", hint="give the path of a file here")
    found = [path]
    if path.suffix == ".toml":
        beside = path.resolve().parent / _DROP_INS
        found += [one for one in sorted(beside.glob("*")) if beside.parent == path.parent and one.is_file()]
    return _parcel(path.parent, found, who)


def of_directory(path: Path, who: str) -> Parcel:
    """Return a directory; the arguments, and what is raised, are those of :func:`of_file`."""
    if not path.is_dir():
        raise UsageError(f"{who}: there is no directory {path} to be brought", hint="give the path of one here")
    return _parcel(path, _below(path, path), who)


def of_tests(paths: Sequence[Path]) -> Parcel:
    """Return tests with what they are likely to need.

    That is what else is in their directory, or in the package that it is part of; and, of the directories above up to
    the one that pytest takes for the project's, conftest.py and pytest's configuration.

    Args:
        paths: Files and directories, absolute.

    Raises:
        UsageError: They cannot be brought: they are too much, or cannot be read.
    """
    places = [_package_of(path if path.is_dir() else path.parent) for path in paths]
    root = _project_of(Path(os.path.commonpath(places)))
    found: dict[Path, None] = {}
    for place in places:
        found.update(dict.fromkeys(_below(place, paths[0])))
        above = [place, *(parent for parent in place.parents if parent.is_relative_to(root))]
        names = (_LOCAL_PLUGIN, *_CONFIGURATIONS)
        found.update(dict.fromkeys(one / name for one in above for name in names if (one / name).is_file()))
    return _parcel(root, found, str(paths[0]))


def packed(parcels: Sequence[Parcel]) -> bytes:
    """Return a tar archive of all files, each where its parcel's place says.

    Args:
        parcels: What is to be packed.

    Raises:
        HostError: A file cannot be read any more.
    """
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for parcel in parcels:
            for name, file in parcel.tree.files.items():
                try:
                    content = file.source.read_bytes()
                except OSError as error:
                    raise HostError(f"{file.source} cannot be brought: {error.strerror}") from error
                member = tarfile.TarInfo(f"{parcel.tree.place}/{name}")
                member.size, member.mode = len(content), 0o755 if file.executable else 0o644
                tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def _parcel(root: Path, paths: Iterator[Path] | Sequence[Path] | dict[Path, None], who: str) -> Parcel:
    try:
        files = {str(path.relative_to(root)): file_of(path) for path in paths}
    except OSError as error:
        raise UsageError(f"{who}: {error.filename} cannot be brought: {error.strerror}") from error
    known = {name: (file.digest, file.executable) for name, file in files.items()}
    return Parcel(root, Tree(f"files/{fingerprint(known)}", files))


def _below(directory: Path, who: Path) -> Iterator[Path]:
    """Yield the files of a directory and of those below, but for what is hidden, made by Python, or somebody's Python.

    Raises:
        UsageError: It is too much.
    """
    count = size = 0
    for place, directories, names in os.walk(directory, followlinks=True):
        if "pyvenv.cfg" in names and Path(place) != directory:
            directories.clear()
            continue
        directories[:] = sorted(one for one in directories if _is_to_be_brought(Path(place, one)))
        for name in sorted(names):
            path = Path(place, name)
            if name.startswith(".") or not path.is_file():
                continue
            count, size = count + 1, size + path.stat().st_size
            if count > _MOST_FILES or size > _MOST_BYTES:
                raise UsageError(
                    f"{who} is in {directory}, which has more than {_MOST_BYTES >> 20} MiB or {_MOST_FILES} files, "
                    "and would be brought as a whole",
                    hint="keep the tests in a directory of their own, with what they need",
                )
            yield path


def _is_to_be_brought(directory: Path) -> bool:
    """Whether a directory is not hidden, made by Python, or a link to one that it is in."""
    if directory.name.startswith(".") or directory.name == "__pycache__":
        return False
    return not (directory.is_symlink() and directory.resolve() in {one.resolve() for one in directory.parents})


def _package_of(directory: Path) -> Path:
    """Return the outermost package that a directory is part of, or itself."""
    while (directory / "__init__.py").is_file() and (directory.parent / "__init__.py").is_file():
        directory = directory.parent
    return directory


def _project_of(directory: Path) -> Path:
    """Return the directory that names of tests are relative to, as pytest finds it (its "rootdir")."""
    for one in (directory, *directory.parents):
        for name in _CONFIGURATIONS:
            file = one / name
            if file.is_file() and (name.endswith("pytest.ini") or "pytest" in file.read_text(errors="replace")):
                return one
        if (one / ".git").exists():
            break
    return directory
