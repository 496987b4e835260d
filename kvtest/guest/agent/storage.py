# SPDX-License-Identifier: Apache-2.0
"""What a container or the sandbox needs mounted in the guest."""

from __future__ import annotations

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
# Directories that an overlay needs and nobody else makes.
_MADE = ("upperdir=", "workdir=")
_NOTHING = ("rw", "defaults")


class Mounts:
    """Mounts that go together.

    Args:
        storages: ``grpc.Storage`` messages, mounted in this order.

    Raises:
        RPCError: One of them could not be mounted; those before it are not either, then.
    """

    def __init__(self, storages: Iterable[Any]) -> None:
        self._points: list[str] = []
        for storage in storages:
            try:
                self._mount(storage)
            except OSError as error:
                self.close()
                raise RPCError(Code.INTERNAL, f"{storage.mount_point}: {error.strerror}") from error
            except RPCError:
                self.close()
                raise

    def _mount(self, storage: Any) -> None:
        point = storage.mount_point
        if not point.startswith("/") or os.path.normpath(point) != point:
            raise RPCError(Code.INVALID_ARGUMENT, f"{point!r} cannot be a mount point")
        os.makedirs(point, exist_ok=True)
        flags = sum(_FLAGS.get(option, 0) for option in set(storage.options))
        data = ",".join(option for option in storage.options if option not in _FLAGS and option not in _NOTHING)
        source = storage.source
        if storage.driver == BLOCK:
            source = fresh_disk(source)
        for option in storage.options:
            for prefix in _MADE:
                if option.startswith(prefix):
                    os.makedirs(option.removeprefix(prefix), exist_ok=True)
        libc.mount(source, point, storage.fstype, data, flags)
        self._points.append(point)

    def close(self) -> None:
        """Unmount them, the last first; what is in use goes when it is not any more."""
        while self._points:
            libc.unmount(self._points.pop())
