# SPDX-License-Identifier: Apache-2.0
"""Whether the host kernel's vsock device works, by using it; no socket is opened."""

from __future__ import annotations

from kvtest.errors import HostError
from kvtest.vsock.reservation import ReservedCid


def reservation_problem(path: str) -> str | None:
    """Open the device and reserve a CID, which is free again when this returns.

    Args:
        path: The device.

    Returns:
        ``None`` if that works, else what does not.
    """
    try:
        with ReservedCid(device=path):
            return None
    except HostError as error:
        return error.message.removeprefix(f"{path} ")
