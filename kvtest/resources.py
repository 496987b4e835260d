# SPDX-License-Identifier: Apache-2.0
"""Where the suites and recipes are: inside the installed package, or beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _find(name: str) -> Path:
    # The wheel carries them inside the package; only then does the package hold a directory of that name.
    installed = _PACKAGE / name
    return installed if (installed / "README.md").is_file() else _PACKAGE.parent / name


def suites_directory() -> Path:
    """Return the directory of the shipped suites."""
    return _find("suites")


def recipes_directory() -> Path:
    """Return the directory of the shipped image recipes."""
    return _find("images")


def package_directory() -> Path:
    """Return the directory of the ``kvtest`` package itself; parts of it are copied into guest images."""
    return _PACKAGE
