# SPDX-License-Identifier: Apache-2.0
"""What exists on the host because of a test, counted before and after it.

What counts is told by ownership and never by the name of a program: what descends from this process or is held by it,
what lies below a directory of ours, and what carries a name that was made up for this run (see :class:`Marks`). So
several runs on one machine, and several workers of one run, never see each other's.
"""

from kvtest.census.heirs import HEIRS
from kvtest.census.ledger import Ledger
from kvtest.census.marks import Marks
from kvtest.census.survey import survey
from kvtest.census.thing import Kind, Thing

__all__ = ["HEIRS", "Kind", "Ledger", "Marks", "Thing", "survey"]
