# SPDX-License-Identifier: Apache-2.0
"""kvtest: end-to-end conformance tests for VM-isolated container runtimes.

What authors of suites import. The names are resolved on first use, because every pytest run of an environment that has
the plugin installed imports this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from kvtest.control import Steps
    from kvtest.deadline import Deadline
    from kvtest.harness import Guest
    from kvtest.host.local import LocalHost
    from kvtest.runtime import Container, Driver, Pod, Pods, Process, RuntimeUnderTest, Status
    from kvtest.serial import SerialPort
    from kvtest.vsock import HybridVsock, Vsock

    requirement = pytest.mark.requirement

__all__ = [
    # Marker
    "requirement",
    # What fixtures give
    "Guest",
    "HybridVsock",
    "Vsock",
    "LocalHost",
    "SerialPort",
    "Pods",
    "RuntimeUnderTest",
    "Pod",
    "Container",
    "Process",
    "Status",
    "Driver",
    # What a function that runs in the guest step by step returns
    "Steps",
    # Time
    "Deadline",
]

_HOMES = {
    "Deadline": "kvtest.deadline",
    "Guest": "kvtest.harness",
    "HybridVsock": "kvtest.vsock",
    "Vsock": "kvtest.vsock",
    "LocalHost": "kvtest.host.local",
    "Container": "kvtest.runtime",
    "Driver": "kvtest.runtime",
    "Pod": "kvtest.runtime",
    "Pods": "kvtest.runtime",
    "RuntimeUnderTest": "kvtest.runtime",
    "Process": "kvtest.runtime",
    "SerialPort": "kvtest.serial",
    "Status": "kvtest.runtime",
    "Steps": "kvtest.control",
}


def __getattr__(name: str) -> object:
    if name == "requirement":
        return importlib.import_module("pytest").mark.requirement
    if name not in _HOMES:
        raise AttributeError(f"module 'kvtest' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
