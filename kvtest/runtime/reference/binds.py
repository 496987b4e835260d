# SPDX-License-Identifier: Apache-2.0
"""What a bundle binds from the host: it is copied into the guest, which shares no files with the host.

Kata does the same where it has no shared file system: small files such as /etc/resolv.conf, and directories of them
such as those of secrets. A copy is as the file was when the container was created, and cannot be written to: what
a container would write would be lost. What cannot be had in this way is refused, and not left out.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from kvtest.errors import HostError
from kvtest.runtime.agent import Agent

FILES = 256
"""How many files and directories may be bound to a container."""
BYTES = 4 << 20
"""How much may be in them."""
_BIND = ("bind", "rbind")
_LIMITS = f"at most {FILES} files with {BYTES >> 20} MiB, in all of a container's bind mounts"
_SHARED_MEMORY = "/dev/shm"
# What a container of the pod has of its own in place of the host's, as Kata has it too.
_SHARED_MEMORY_MOUNT = {
    "destination": _SHARED_MEMORY,
    "type": "tmpfs",
    "source": "shm",
    "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
}


@frozen
class _Copy:
    """A file, directory or symbolic link that is to be copied.

    Args:
        source: Its path on the host.
        target: Its path in the guest, below the agent's own directory.
        status: What the host says of it.
    """

    source: str
    target: str
    status: os.stat_result


class Binds:
    """The bind mounts of one container.

    Args:
        bundle: Its bundle, to which the paths in its configuration are relative.
    """

    def __init__(self, bundle: Path) -> None:
        self._bundle = bundle
        self._name = secrets.token_hex(8)  # nothing of a container of the same ID before this one
        self._copies: list[_Copy] = []
        self._bytes = 0

    def replaced(self, mounts: Sequence[Mapping[str, Any]], agent: Agent) -> list[Mapping[str, Any]]:
        """Copy what is bound, and return the mounts as they are in the guest.

        Args:
            mounts: Those of the OCI configuration.
            agent: The pod's agent.

        Raises:
            HostError: Something cannot be copied; nothing is, then.
            RPCError: The agent refuses it.
        """
        prefix = agent.behaviour.copy_prefix
        found = [
            self._bound(mount, f"{prefix}/{self._name}/{number}") if is_bind(mount) else mount
            for number, mount in enumerate(mounts)
        ]
        for copy in self._copies:
            owner = (copy.status.st_uid, copy.status.st_gid)
            agent.copy_file(copy.target, _content(copy), copy.status.st_mode, owner=owner)
        return found

    def _bound(self, mount: Mapping[str, Any], target: str) -> Mapping[str, Any]:
        destination = os.path.normpath(mount["destination"])
        if destination == _SHARED_MEMORY:
            return _SHARED_MEMORY_MOUNT
        # A bind mount is of what a symbolic link leads to (mount(2)); those within a directory stay what they are.
        source = os.path.realpath(self._bundle / mount.get("source", ""))
        try:
            self._add(source, target)
        except OSError as error:
            raise _refused(source, destination, error.strerror or str(error)) from error
        except ValueError as error:
            raise _refused(source, destination, str(error)) from error
        options = [option for option in mount.get("options") or [] if option not in ("rw", "ro")]
        return {**mount, "source": target, "options": [*options, "ro"]}

    def _add(self, source: str, target: str) -> None:
        """Have a file, or a directory with all that is in it, copied.

        Raises:
            OSError: Something of it cannot be read.
            ValueError: Something of it cannot be copied.
        """
        for path in _walk(source):
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                raise ValueError(f"{path} is neither a file nor a directory")
            self._copies.append(_Copy(path, f"{target}{path.removeprefix(source)}", status))
            self._bytes += status.st_size if kind == stat.S_IFREG else 0
            if len(self._copies) > FILES or self._bytes > BYTES:
                raise ValueError(f"there is too much in it: {_LIMITS}")


def is_bind(mount: Mapping[str, Any]) -> bool:
    """Whether a mount of an OCI configuration is a bind mount (config.md of OCI, "Mounts")."""
    return mount.get("type") in _BIND or any(option in _BIND for option in mount.get("options") or [])


def _walk(path: str) -> Iterator[str]:
    """Yield a path, and what is below it: what is in a directory after that."""
    yield path
    if os.path.isdir(path) and not os.path.islink(path):
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            yield from _walk(f"{path}/{name}")


def _content(copy: _Copy) -> bytes:
    try:
        if stat.S_ISLNK(copy.status.st_mode):
            return os.fsencode(os.readlink(copy.source))
        if stat.S_ISREG(copy.status.st_mode):
            with open(copy.source, "rb") as stream:
                return stream.read(BYTES)
    except OSError as error:
        raise HostError(f"could not copy {copy.source} into the guest: {error.strerror}") from error
    return b""


def _refused(source: str, destination: str, reason: str) -> HostError:
    return HostError(
        f"cannot bind {source} at {destination}: {reason}",
        hint="pods of this runtime share no files with the host: what is bound is copied into the guest",
    )
