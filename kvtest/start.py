# SPDX-License-Identifier: Apache-2.0
"""How guests start, as a user asks for it."""

from __future__ import annotations

from enum import StrEnum


class ReadAhead(StrEnum):
    """Whether the next test's guest is started while a test runs."""

    AUTO = "auto"
    """Where each worker has a second processor for it."""
    ON = "on"
    OFF = "off"


class GuestStart(StrEnum):
    """Whether guests boot."""

    CLONE = "clone"
    """One guest boots and is frozen; every other goes on from there, in a tenth of a second."""
    BOOT = "boot"
    """Every guest boots by itself."""
