# SPDX-License-Identifier: Apache-2.0
"""Nothing survives its owner: processes, directories and half-made files."""

from kvtest.ownership.process import AdoptedProcess, MountNamespace, OwnedProcess, run, wait_readable
from kvtest.ownership.run_directory import RunDirectory
from kvtest.ownership.temporary import owned_path, temporary_directory, write_atomically

__all__ = [
    "AdoptedProcess",
    "MountNamespace",
    "OwnedProcess",
    "RunDirectory",
    "owned_path",
    "run",
    "temporary_directory",
    "wait_readable",
    "write_atomically",
]
