# SPDX-License-Identifier: Apache-2.0
"""How guests and what is in them start, as a user asks for it."""

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


class AgentStart(StrEnum):
    """What a guest agent is in its guest."""

    SERVICE = "service"
    """Started by kvtest's init, beside the control daemon."""
    INIT = "init"
    """The first process, as in a Kata initrd; nothing of kvtest's runs in the guest."""


class AgentDisk(StrEnum):
    """What a whole image of a guest is to its guest."""

    VIRTIO_BLK = "virtio-blk"
    NVME = "nvme"
    """For kernels that have virtio-blk as a module only."""


class PodUse(StrEnum):
    """Whose pods are that a test leaves as it has found them."""

    SHARED = "shared"
    OWN = "own"
