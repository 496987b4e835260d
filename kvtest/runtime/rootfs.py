# SPDX-License-Identifier: Apache-2.0
"""The root file system of containers: busybox of the distribution and nothing else, shared read-only by all of them."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from kvtest.errors import MissingToolError

_CURE = "apt-get install --no-install-recommends busybox-static"
DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "run", "var")
COMMANDS = (
    *("sh", "cat", "echo", "sleep", "true", "false", "kill", "head", "tail", "wc", "dd", "yes", "ps", "mkdir", "touch"),
    *(
        "rm",
        "ls",
        "env",
        "id",
        "hostname",
        "mount",
        "umount",
        "seq",
        "tr",
        "printf",
        "sha256sum",
        "test",
        "tty",
        "stty",
    ),
)
PASSWD = "root:x:0:0:root:/root:/bin/sh\n"  # noqa: S105 - a file
GROUP = "root:x:0:\n"
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_INTERPRETER = 3  # PT_INTERP of elf(5)


def find_busybox() -> Path:
    """Return a busybox that needs no libraries.

    Raises:
        MissingToolError: There is none.
    """
    found = shutil.which("busybox", path="/bin:/usr/bin:/sbin:/usr/sbin:/usr/local/bin")
    if found is None:
        raise MissingToolError("there is no busybox, which containers are made of", hint=_CURE)
    if _has_interpreter(Path(found)):
        raise MissingToolError(f"{found} needs libraries, which containers do not have", hint=_CURE)
    return Path(found)


def make(directory: Path) -> None:
    """Make a root file system.

    Args:
        directory: Where; need not exist.

    Raises:
        MissingToolError: There is no busybox that needs no libraries.
    """
    busybox = find_busybox()
    for name in DIRECTORIES:
        (directory / name).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(busybox, directory / "bin" / "busybox")
    (directory / "bin" / "busybox").chmod(0o755)
    (directory / "etc" / "passwd").write_text(PASSWD)
    (directory / "etc" / "group").write_text(GROUP)
    for name in COMMANDS:
        (directory / "bin" / name).symlink_to("busybox")


def _has_interpreter(program: Path) -> bool:
    """Whether a 64-bit ELF file asks for a dynamic linker (elf(5))."""
    with program.open("rb") as stream:
        header = stream.read(_ELF_HEADER.size)
        if len(header) < _ELF_HEADER.size or not header.startswith(b"\x7fELF"):
            return True
        _, _, _, _, _, offset, _, _, _, size, count, *_ = _ELF_HEADER.unpack(header)
        stream.seek(offset)
        table = stream.read(size * count)
    return any(struct.unpack_from("<I", table, number * size)[0] == _INTERPRETER for number in range(count))
