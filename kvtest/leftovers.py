# SPDX-License-Identifier: Apache-2.0
"""What a crash of the machine left: all that ``kvtest gc`` removes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kvtest.image import ImageCache
from kvtest.ownership.keeper import owned_by
from kvtest.ownership.keeper import remove as remove_path
from kvtest.ownership.run_directory import default_base, left_behind
from kvtest.settings import Settings
from kvtest.vm.template_cache import TemplateCache, orphans, template_caches


def left_over(settings: Settings, *, remove: bool = False) -> Iterator[Path]:
    """Yield what nobody uses any more, each locked while the caller looks at it.

    Run directories that nobody holds, with what runtimes have kept elsewhere for the pods in them; templates in memory
    whose cache has been removed; half-made entries of the cache.

    Args:
        settings: Say where to look.
        remove: Whether to remove it; what is there all the same could not be removed.
    """
    for base in dict.fromkeys((settings.run_directory or default_base(), default_base(), Path("/tmp"))):
        for path in left_behind(base):
            for owned in owned_by(str(path)):
                yield _taken(Path(owned), remove)
            yield _taken(path, remove)
    for path in orphans():
        yield _taken(path, remove)
    caches: list[ImageCache | TemplateCache] = [ImageCache(settings.cache), *template_caches(settings.cache)]
    for cache in caches:
        yield from cache.half_made(remove=remove)


def _taken(path: Path, remove: bool) -> Path:
    if remove:
        remove_path(str(path))
    return path
