# SPDX-License-Identifier: Apache-2.0
"""A private, short directory for the sockets and scratch files of one machine.

``sun_path`` holds 107 bytes and a terminator (unix(7)), and results directories of real projects are longer than that,
so sockets never live beside the results.

What goes with a run directory, such as what a container runtime keeps elsewhere for a pod of ours, is written down in
it: the keeper finds it there, and ``kvtest gc`` where there is no keeper any more.

A run directory is locked as long as it is in use, and unlocked by the kernel when its owner is gone: what is unlocked
was left by somebody who had no keeper any more, as after a crash of the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from kvtest.errors import SettingError
from kvtest.ownership.keeper import OWNED
from kvtest.ownership.owner import current_keeper

SOCKET_PATH_LIMIT = 107
_LONGEST_NAME = "vsock_4294967295"
_PREFIX = "kvtest-"
PATTERN = f"{_PREFIX}*"
"""What the names of run directories match, as do others."""
_NAME = re.compile(rf"{_PREFIX}[0-9a-f]{{8}}")
_MODE = 0o700
_made: set[Path] = set()  # by this process; what has gone is taken out when somebody looks


class RunDirectory:
    """A directory of mode 0700 that is removed on close, or when we die.

    Args:
        base: Where to make it; chosen if ``None``: ``$XDG_RUNTIME_DIR``, ``/run`` for root, else ``/tmp``.

    Raises:
        SettingError: Socket paths in it would be too long, or it cannot be made.
    """

    def __init__(self, base: Path | None = None) -> None:
        parent = base if base is not None else default_base()
        length = len(os.fsencode(parent / f"{_PREFIX}12345678" / _LONGEST_NAME))
        if length > SOCKET_PATH_LIMIT:
            raise SettingError(
                f"socket paths in the run directory {parent} would have {length} bytes, "
                f"the kernel takes {SOCKET_PATH_LIMIT}",
                hint="use a shorter one, such as --run-directory /run or /tmp",
            )
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self.path, self._lock = _make(parent)
        except OSError as error:
            raise SettingError(
                f"could not make a run directory in {parent}: {error.strerror}",
                hint="choose another with --run-directory",
            ) from error
        self._owned: set[str] = set()

    def own(self, pattern: str) -> None:
        """Have paths elsewhere go with the directory when we die, or with ``kvtest gc``; say so before they are made.

        They do not with :meth:`close`: whoever should have removed them by then has not, which is for others to find.

        Args:
            pattern: A shell pattern that nobody else's paths match.
        """
        self._say("paths", pattern)

    def own_sockets_in(self, pattern: str) -> None:
        """Have the sockets go with it, as for :meth:`own`, whose addresses are in files.

        Args:
            pattern: A shell pattern of the files, below the directory.
        """
        self._say("sockets_in", str(self.path / pattern))

    def _say(self, kind: str, pattern: str) -> None:
        line = json.dumps({kind: pattern})
        if line not in self._owned:
            self._owned.add(line)
            with (self.path / OWNED).open("a", encoding="utf-8") as stream:
                stream.write(f"{line}\n")

    def close(self) -> None:
        """Remove the directory with all that is in it."""
        if self._lock < 0:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1
        current_keeper().keep(self.path)

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def existing() -> list[Path]:
    """Return the run directories that this process has made and that are there."""
    for path in [path for path in _made if not os.path.lexists(path)]:
        _made.discard(path)
    return sorted(_made)


def default_base() -> Path:
    """Return where run directories are made if nobody says otherwise."""
    if (runtime := os.environ.get("XDG_RUNTIME_DIR")) and os.access(runtime, os.W_OK):
        return Path(runtime)
    return Path("/run") if os.access("/run", os.W_OK) else Path("/tmp")


def in_run_directory(path: str) -> bool:
    """Return whether a path is below a directory that is named as run directories are."""
    return any(_NAME.fullmatch(part) for part in path.split("/")[:-1])


def left_behind(base: Path) -> Iterator[Path]:
    """Yield the run directories in ``base`` that are nobody's any more, each locked while the caller looks at it.

    Args:
        base: Where to look; need not exist.
    """
    for path in sorted(base.glob(PATTERN)) if base.is_dir() else []:
        if not _NAME.fullmatch(path.name):  # a project may have directories whose names begin so
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # not a directory, or gone by now
            continue
        try:
            status = os.fstat(descriptor)
            ours = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == _MODE
            if ours and _locked(descriptor):
                yield path
        finally:
            os.close(descriptor)


def _make(parent: Path) -> tuple[Path, int]:
    """Make a directory and lock it; return its path and the descriptor that holds the lock."""
    while True:
        path = parent / f"{_PREFIX}{secrets.token_hex(4)}"
        current_keeper().remove(path)  # before it is made: there is no moment in which nobody would remove it
        path.mkdir(mode=_MODE)
        _made.add(path)
        with contextlib.suppress(FileNotFoundError):  # taken for left behind, before it was locked
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            if _locked(descriptor) and path.exists():
                return path, descriptor
            os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Lock a directory; return whether nobody else had."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
