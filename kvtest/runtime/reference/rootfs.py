# SPDX-License-Identifier: Apache-2.0
"""From a container's root file system on the host to a read-only image that a guest can mount."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kvtest.errors import HostError
from kvtest.guest import libc
from kvtest.host import erofs
from kvtest.runtime.reference.mounts import unmount

KIND = erofs.KIND
_FLAGS = {"ro": 0x1, "bind": 0x1000, "rbind": 0x1000 | 0x4000, "rw": 0}  # linux/mount.h


def pack(directory: Path, mounts: Sequence[Any], image: Path) -> None:
    """Write an image of a container's root file system.

    Args:
        directory: Where the root file system is, or gets mounted meanwhile.
        mounts: ``containerd.types.Mount`` messages; none if it is there already.
        image: The file.

    Raises:
        MissingToolError: mkfs.erofs is absent.
        HostError: It could not be mounted or packed.
    """
    with _mounted(directory, mounts):
        erofs.pack(directory, image)


@contextlib.contextmanager
def _mounted(directory: Path, mounts: Sequence[Any]) -> Iterator[None]:
    if mounts:
        directory.mkdir(exist_ok=True)  # in the bundle, whose owner removes it
    elif not directory.is_dir():
        raise HostError(f"the container's root file system {directory} is not there, or no directory")
    with contextlib.ExitStack() as mounted:
        for mount in mounts:
            flags, data = 0, []
            for option in mount.options:
                if option in _FLAGS:
                    flags |= _FLAGS[option]
                else:
                    data.append(option)
            try:
                libc.mount(mount.source, str(directory), mount.type, ",".join(data), flags)
            except OSError as error:
                raise HostError(f"could not mount the container's root file system: {error.strerror}") from error
            mounted.callback(unmount, directory)
        yield
