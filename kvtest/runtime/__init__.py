# SPDX-License-Identifier: Apache-2.0
"""Container runtimes under test: their profiles, and driving them as containerd does, with it and without."""

from kvtest.runtime.backend import Driver
from kvtest.runtime.factory import Pods, RuntimeUnderTest
from kvtest.runtime.pod import Container, Pod, Process
from kvtest.runtime.sink import Sink
from kvtest.runtime.tasks import ExitStatus, Status

__all__ = ["Container", "Driver", "ExitStatus", "Pod", "Pods", "Process", "RuntimeUnderTest", "Sink", "Status"]
