# SPDX-License-Identifier: Apache-2.0
"""Read-only images of directories, to be plugged into a machine as disks."""

from __future__ import annotations

from pathlib import Path

from kvtest.errors import HostError, MissingToolError
from kvtest.ownership import run

KIND = "erofs"
_PATIENCE = 60.0


def pack(directory: Path, image: Path) -> None:
    """Write an image of a directory.

    Args:
        directory: The directory.
        image: The file.

    Raises:
        MissingToolError: mkfs.erofs is absent.
        HostError: It failed.
    """
    try:
        done = run(["mkfs.erofs", "--quiet", image, directory], deadline=_PATIENCE)
    except MissingToolError as error:
        raise MissingToolError(error.message, hint="apt-get install --no-install-recommends erofs-utils") from error
    if done.status != 0:
        raise HostError(f"mkfs.erofs of {directory} failed: {(done.stderr or done.stdout).strip()[-300:]}")
