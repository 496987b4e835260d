# SPDX-License-Identifier: Apache-2.0
"""What can execute a guest's instructions: as a user asks for it, and as it is."""

from __future__ import annotations

from enum import StrEnum


class AcceleratorChoice(StrEnum):
    """An accelerator of QEMU, or the wish that the best working one be found."""

    AUTO = "auto"
    """KVM where a guest really runs under it, else TCG."""
    KVM = "kvm"
    """Hardware virtualisation through ``/dev/kvm``."""
    TCG = "tcg"
    """QEMU's own translator: works everywhere, slower."""


class Accelerator(StrEnum):
    """How a guest's instructions are run."""

    KVM = "kvm"
    TCG = "tcg"
