# SPDX-License-Identifier: Apache-2.0
"""What works on a machine, what does not, and what mends it.

:mod:`kvtest.doctor.gather` looks at the machine and describes it as a :class:`~kvtest.doctor.system.System`; the checks
judge that description, so that every kind of machine can be one in a test.
"""

from kvtest.doctor.report import Check, Demands, Finding, Need, Report, Status, examine

__all__ = ["Check", "Demands", "Finding", "Need", "Report", "Status", "examine"]
