# SPDX-License-Identifier: Apache-2.0
"""Virtual machines: command line, process, monitor, console, life cycle."""

from kvtest.accelerator import Accelerator
from kvtest.vm.configuration import Configuration
from kvtest.vm.machine import VM
from kvtest.vm.qemu import QEMU
from kvtest.vm.state import State

__all__ = ["QEMU", "VM", "Accelerator", "Configuration", "State"]
