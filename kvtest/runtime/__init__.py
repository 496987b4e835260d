# SPDX-License-Identifier: Apache-2.0
"""Container runtimes under test: their profiles, and driving them as containerd does, with it and without.

The names are resolved on first use: the reference shim is in this package, and each of its processes would have to load
what only its tests need, which takes longer than what it is there for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvtest.runtime.backend import Driver
    from kvtest.runtime.container import Container, Process
    from kvtest.runtime.pod import Pod
    from kvtest.runtime.pods import Pods
    from kvtest.runtime.sink import Sink
    from kvtest.runtime.tasks import ExitStatus, Status
    from kvtest.runtime.under_test import RuntimeUnderTest

__all__ = ["Container", "Driver", "ExitStatus", "Pod", "Pods", "Process", "RuntimeUnderTest", "Sink", "Status"]

_HOMES = {
    "Container": "container",
    "Driver": "backend",
    "ExitStatus": "tasks",
    "Pod": "pod",
    "Pods": "pods",
    "Process": "container",
    "RuntimeUnderTest": "under_test",
    "Sink": "sink",
    "Status": "tasks",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
