# SPDX-License-Identifier: Apache-2.0
"""CopyFile: files that the runtime puts into the guest, in pieces."""

from __future__ import annotations

import os
import posixpath
import stat
from typing import Any

from kvtest.errors import RPCError
from kvtest.rpc.status import Code

#: The only place that CopyFile writes to, since 4.0.
PREFIX = "/run/kata-containers/shared/containers"
_PERMISSIONS = 0o7777


def copy_file(request: Any) -> None:
    """Write the piece of a file that a ``grpc.CopyFileRequest`` holds; the file is there when the last has come.

    Raises:
        RPCError: The path leads elsewhere, or the piece does not fit the file.
    """
    path = request.path
    if posixpath.normpath(path) != path or not path.startswith(f"{PREFIX}/"):
        raise RPCError(Code.INVALID_ARGUMENT, f"{path!r} is not below {PREFIX}")
    if request.offset < 0 or request.file_size < 0 or request.offset + len(request.data) > request.file_size:
        raise RPCError(Code.INVALID_ARGUMENT, f"the piece is outside of a file of {request.file_size} bytes")
    try:
        parent = os.path.dirname(path)
        os.makedirs(parent, mode=request.dir_mode & _PERMISSIONS or 0o750, exist_ok=True)
        if os.path.realpath(parent) != parent:
            raise RPCError(Code.INVALID_ARGUMENT, f"{path!r} leads through a symbolic link")
        _write(request, path)
    except OSError as error:
        raise RPCError(Code.INTERNAL, f"{path}: {error.strerror}") from error


def _write(request: Any, path: str) -> None:
    if stat.S_ISDIR(request.file_mode):
        os.makedirs(path, exist_ok=True)
    elif stat.S_ISLNK(request.file_mode):
        os.symlink(request.data, os.fsencode(path))
        return
    else:
        partial = f"{path}.partial"
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if request.offset else os.O_TRUNC)
        with open(os.open(partial, flags, 0o600), "wb") as stream:
            stream.seek(request.offset)
            stream.write(request.data)
        if request.offset + len(request.data) < request.file_size:
            return
        os.replace(partial, path)
    os.chown(path, request.uid, request.gid)
    os.chmod(path, request.file_mode & _PERMISSIONS)
