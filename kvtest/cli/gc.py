# SPDX-License-Identifier: Apache-2.0
"""``kvtest gc``: remove what a crash of the machine left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvtest.cli.console import output
from kvtest.cli.options import Given, settings_of, with_settings
from kvtest.leftovers import left_over


@with_settings("cache", "run_directory")
def gc(
    given: Given,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed")] = False,
) -> None:
    """Remove what a crash of the machine left, and templates in memory whose cache has been removed.

    What a crash leaves are run directories that nobody holds, what runtimes have kept elsewhere for the pods in them,
    such as the state of containers and sockets of shims, and half-made entries of the cache. A run that ends,
    however it ends, removes these itself. What somebody is using is locked, and stays.
    """
    settings = settings_of(given)
    found = False
    for path in left_over(settings, remove=not dry_run):
        found = True
        output.print(f"{_outcome(path, dry_run)} {path}", highlight=False, markup=False)
    if not found:
        output.print("nothing to remove")


def _outcome(path: Path, dry_run: bool) -> str:
    if dry_run:
        return "would remove"
    return "could not remove" if path.exists() else "removed"
