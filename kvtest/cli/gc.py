# SPDX-License-Identifier: Apache-2.0
"""``kvtest gc``: remove what a crash of the machine left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvtest.cli.console import output
from kvtest.cli.options import Given, settings_of, with_settings
from kvtest.image import ImageCache
from kvtest.ownership.keeper import remove
from kvtest.ownership.run_directory import default_base, left_behind
from kvtest.vm.template_cache import TemplateCache, orphans, template_caches


@with_settings("cache", "run_directory")
def gc(
    given: Given,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed")] = False,
) -> None:
    """Remove what a crash of the machine left, and templates in memory whose cache has been removed.

    What a crash leaves are run directories that nobody holds, and half-made entries of the cache. A run that ends,
    however it ends, removes these itself. What somebody is using is locked, and stays.
    """
    settings = settings_of(given)
    verb, found = ("would remove" if dry_run else "removed"), False
    for base in dict.fromkeys((settings.run_directory or default_base(), default_base(), Path("/tmp"))):
        for path in left_behind(base):
            found = True
            if not dry_run:
                remove(str(path))
            output.print(f"{_outcome(path, dry_run)} {path}", highlight=False, markup=False)
    for path in orphans():
        found = True
        if not dry_run:
            remove(str(path))
        output.print(f"{_outcome(path, dry_run)} {path}", highlight=False, markup=False)
    caches: list[ImageCache | TemplateCache] = [ImageCache(settings.cache), *template_caches(settings.cache)]
    for cache in caches:
        for path in cache.half_made(remove=not dry_run):
            found = True
            output.print(f"{verb} {path}", highlight=False, markup=False)
    if not found:
        output.print("nothing to remove")


def _outcome(path: Path, dry_run: bool) -> str:
    if dry_run:
        return "would remove"
    return "could not remove" if path.exists() else "removed"
