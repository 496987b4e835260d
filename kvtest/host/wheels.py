# SPDX-License-Identifier: Apache-2.0
"""Packages for another version of Python than ours: where their code is compiled, they are fetched as pip does it."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from kvtest.deadline import Deadline
from kvtest.errors import DeadlineExceededError, HostError
from kvtest.ownership import run

OURS = f"{sys.version_info.major}.{sys.version_info.minor}"
_BOUND = re.compile(r"\.cpython-\d+[^/]*\.so")  # PEP 3149; what keeps to the stable ABI has abi3 in its place
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")  # PEP 600: any lab host's libc
_PATIENCE = 300.0


def bound(package: metadata.Distribution) -> bool:
    """Return whether a distribution has code that only one version of Python can load."""
    return any(_BOUND.search(file.name) for file in package.files or [])


def fetch(packages: Sequence[metadata.Distribution], python: str, site: Path, scratch: Path) -> None:
    """Unpack distributions, of the versions that are installed here, as they are for another Python.

    Args:
        packages: The distributions.
        python: The other version, such as ``3.13``.
        site: The directory that Python is to search.
        scratch: A directory for what is fetched.

    Raises:
        HostError: pip could not bring them.
    """
    if not packages:
        return
    wanted = [f"{one.metadata['Name']}=={one.version}" for one in packages]
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *platforms]
    command += ["--implementation=cp", f"--python-version={python}", f"--dest={scratch}", *wanted]
    try:
        result = run(command, deadline=Deadline(_PATIENCE))
        problem = result.stderr.strip().splitlines()[-1:] if result.status != 0 else []
    except DeadlineExceededError as error:
        result, problem = None, [error.message]
    if result is None or result.status != 0:
        raise HostError(
            f"pip could not bring {', '.join(wanted)} for Python {python}: {''.join(problem) or 'it does not say why'}",
            hint=f"a --lab-image whose Python is ours, {OURS}, needs nothing brought",
        )
    for wheel in sorted(scratch.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
