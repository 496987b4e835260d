# SPDX-License-Identifier: Apache-2.0
"""A program of the user's that is to run in a guest, with the shared libraries that it needs."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from pathlib import Path

from attrs import frozen

from kvtest.errors import RecipeError
from kvtest.image.machines import X86_64, machine_of
from kvtest.ownership import run

_MAGIC = b"\x7fELF"
_INTERPRETER = 3


@frozen
class Program:
    """An executable for guests.

    Args:
        path: The file.
        digest: Tells its contents, and those of its libraries, from all others.
        loader: Its dynamic loader; ``None`` if it is static.
        libraries: The shared libraries that it needs, found on this machine.
    """

    path: Path
    digest: str
    loader: Path | None = None
    libraries: tuple[Path, ...] = ()


def read_program(path: Path) -> Program:
    """Return what an executable needs.

    Raises:
        RecipeError: There is none, it is for another machine, or a library is missing.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"could not read the agent {path}: {error.strerror}") from error
    if not os.access(path, os.X_OK):
        raise RecipeError(f"the agent {path} is not executable", hint=f"chmod +x {path}")
    if data[:2] == b"#!":
        return Program(path, hashlib.sha256(data).hexdigest())
    if data[:4] != _MAGIC or len(data) < 64:
        raise RecipeError(f"the agent {path} is no ELF executable", hint="is it the kata-agent binary itself?")
    if (machine := machine_of(data)) != X86_64:
        raise RecipeError(
            f"the agent {path} is for {machine}, guests are x86-64", hint="build it for x86_64-unknown-linux"
        )
    loader = _interpreter(data)
    if loader is None:
        return Program(path, hashlib.sha256(data).hexdigest())
    libraries = _libraries(path, loader)
    digest = hashlib.sha256(data)
    for library in (*libraries, loader):
        digest.update(library.read_bytes())
    return Program(path, digest.hexdigest(), loader, libraries)


def _interpreter(data: bytes) -> Path | None:
    """Return the dynamic loader that an executable names (System V ABI, "Program Header")."""
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for number in range(count):
        kind, _flags, start, _virtual, _physical, length = struct.unpack_from("<IIQQQQ", data, offset + number * size)
        if kind == _INTERPRETER:
            return Path(data[start : start + length].rstrip(b"\0").decode())
    return None


def _libraries(path: Path, loader: Path) -> tuple[Path, ...]:
    if not loader.is_file():
        raise RecipeError(
            f"the agent {path} needs the loader {loader}, which this machine does not have",
            hint="build it static: a kata-agent for musl is",
        )
    # Not the way of ldd(1), a variable for the loader: one that does not know it would run the program here.
    listed = run([loader, "--list", path])
    if listed.status != 0 or "not found" in listed.stdout:
        said = (listed.stderr or listed.stdout).strip()
        missing = re.search(r"shared libraries: ([^:\s]+):", said) or re.search(r"(\S+) => not found", said)
        raise RecipeError(
            f"the agent {path} needs a library that was not found: {missing[1] if missing else said}",
            hint="install it, or build the agent static",
        )
    found = [
        Path(words[2]) for line in listed.stdout.splitlines() if len(words := line.split()) > 2 and words[1] == "=>"
    ]
    return tuple(dict.fromkeys(found))
