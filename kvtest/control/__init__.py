# SPDX-License-Identifier: Apache-2.0
"""The host's side of the control channel: commands, functions and files in a guest."""

from kvtest.control.channel import GuestControl
from kvtest.control.functions import Service, Steps, Task
from kvtest.control.processes import Completed, Process

__all__ = ["Completed", "GuestControl", "Process", "Service", "Steps", "Task"]
