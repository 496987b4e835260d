# SPDX-License-Identifier: Apache-2.0
"""What a container or the sandbox needs mounted in the guest."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any

from kvtest.errors import RPCError
from kvtest.guest import libc
from kvtest.guest.agent.disks import BLOCK, fresh_disk
from kvtest.rpc.status import Code

# The options of mount(8) that are flags of mount(2), linux/mount.h.
_FLAGS = {
    "ro": 0x1,
    "nosuid": 0x2,
    "nodev": 0x4,
    "noexec": 0x8,
    "sync": 0x10,
    "noatime": 0x400,
    "bind": 0x1000,
    "rbind": 0x1000 | 0x4000,
    "relatime": 0x200000,
}
_NOTHING = ("rw", "defaults")
_made: set[str] = set()  # directories that are there for any of the mount points
#: The option of an overlay to which the container is to write: what it writes goes with the container.
WRITABLE = "io.katacontainers.fs-opt.overlay-rw"


class Mounts:
    """Mounts that go together, with the directories that were made for them.

    Args:
        storages: ``grpc.Storage`` messages, mounted in this order.
        directory: Where what is written to an overlay is kept, which is not removed here; ``None`` if nowhere.

    Raises:
        RPCError: One of them could not be mounted; those before it are not either, then.
    """

    def __init__(self, storages: Iterable[Any], directory: str | None = None) -> None:
        self._stack = contextlib.ExitStack()
        for number, storage in enumerate(storages):
            try:
                self._mount(storage, directory and f"{directory}/storage-{number}")
            except OSError as error:
                self.close()
                raise RPCError(Code.INTERNAL, f"{storage.mount_point}: {error.strerror}") from error
            except RPCError:
                self.close()
                raise

    def _mount(self, storage: Any, directory: str | None) -> None:
        point = storage.mount_point
        if not point.startswith("/") or os.path.normpath(point) != point:
            raise RPCError(Code.INVALID_ARGUMENT, f"{point!r} cannot be a mount point")
        self._stack.callback(_remove, point)
        _make(point)
        flags = sum(_FLAGS.get(option, 0) for option in set(storage.options))
        data = [option for option in storage.options if option not in (*_FLAGS, *_NOTHING, WRITABLE)]
        source = storage.source
        if storage.driver == BLOCK:
            source = fresh_disk(source)
        if WRITABLE in storage.options:
            if directory is None:
                raise RPCError(Code.INVALID_ARGUMENT, f"{point}: {WRITABLE} is for a container's storages")
            for name in ("upper", "work"):
                os.makedirs(f"{directory}/{name}")
                data.append(f"{name}dir={directory}/{name}")
        libc.mount(source, point, storage.fstype, ",".join(data), flags)
        self._stack.callback(libc.unmount, point)

    def close(self) -> None:
        """Unmount them, the last first, and remove what was made; what is in use goes when it is not any more."""
        self._stack.close()


def _make(path: str) -> None:
    """Make a directory, and those above it that are not there."""
    for directory in _down_to(path):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
            _made.add(directory)


def _remove(path: str) -> None:
    """Remove a directory and those above it, as far as they were made here and nothing is in them."""
    for directory in reversed(_down_to(path)):
        if directory in _made:
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                pass
            except OSError:  # others' mount points are below it, or what somebody else has put there
                return
            _made.remove(directory)


def _down_to(path: str) -> list[str]:
    return [path[:end] for end, character in enumerate(f"{path}/") if character == "/" and end]
