# SPDX-License-Identifier: Apache-2.0
"""Templates: guests that have booted, frozen on disk.

The memory of a template is a file that clones map copy-on-write; its state is what QEMU's migration writes with
``x-ignore-shared``, which leaves memory out. A template is good for exactly one kind of machine, and its name in the
cache follows from everything that shapes that machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from kvtest.errors import TemplateRemovedError
from kvtest.ownership.use import in_use

if TYPE_CHECKING:
    from kvtest.cache import Entry

MEMORY, STATE, KERNEL = "memory", "state", "kernel"


@frozen
class Template:
    """A frozen guest.

    Args:
        name: Its name in the cache; changes with everything that shapes it.
        directory: Where its files are.
        release: The release of its kernel.
        next_stream: The number of the next request on its control channel.
        extents: Where the memory file has data: offsets and sizes.
    """

    name: str
    directory: Path
    release: str
    next_stream: int
    extents: tuple[tuple[int, int], ...]

    @property
    def memory(self) -> Path:
        """The file of its memory, as large as the memory."""
        return self.directory / MEMORY

    @property
    def state(self) -> Path:
        """The file of the state of its CPUs and devices."""
        return self.directory / STATE

    @property
    def kernel(self) -> Path:
        """The beginning of its kernel."""
        return self.directory / KERNEL

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it from being removed.

        Raises:
            TemplateRemovedError: It was removed before.
        """
        with contextlib.ExitStack() as opened:
            try:
                opened.enter_context(in_use(self.directory))
            except FileNotFoundError as error:
                raise TemplateRemovedError(
                    f"{self.name} has been removed from {self.directory.parent}",
                    hint="it is made again by the next run",
                ) from error
            yield

    @classmethod
    def of(cls, entry: Entry) -> Template:
        """Return an entry of the cache as a template."""
        return cls.said(entry.path, entry.manifest)

    @classmethod
    def said(cls, directory: Path, manifest: Mapping[str, Any]) -> Template:
        """Return the template in a directory.

        Args:
            directory: The directory.
            manifest: What its maker has said of it.
        """
        extents = tuple((int(offset), int(size)) for offset, size in manifest["extents"])
        return cls(directory.name, directory, str(manifest["release"]), int(manifest["next_stream"]), extents)
