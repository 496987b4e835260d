# SPDX-License-Identifier: Apache-2.0
"""How guests start, as a user asks for it."""

from __future__ import annotations

from enum import StrEnum


class GuestStart(StrEnum):
    """Whether guests boot."""

    CLONE = "clone"
    """One guest boots and is frozen; every other goes on from there, in a tenth of a second."""
    BOOT = "boot"
    """Every guest boots by itself."""
