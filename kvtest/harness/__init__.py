# SPDX-License-Identifier: Apache-2.0
"""From settings to running guests: what the pytest plugin and the command line share."""

from kvtest.harness.factory import GuestFactory
from kvtest.harness.guest import Guest
from kvtest.harness.request import GuestRequest, Scope
from kvtest.harness.running import RunningMachine
from kvtest.harness.shared import SharedGuests

__all__ = ["Guest", "GuestFactory", "GuestRequest", "RunningMachine", "Scope", "SharedGuests"]
