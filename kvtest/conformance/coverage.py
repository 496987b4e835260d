# SPDX-License-Identifier: Apache-2.0
"""What a run means to do: the requirements as they were then, and the tests, most of which name some."""

from __future__ import annotations

import attrs

from kvtest.conformance.requirements import Requirement
from kvtest.transport import Transport


@attrs.frozen
class PlannedTest:
    """A test that is to be run; or one that is not, and names requirements.

    Args:
        id: Its node ID.
        requirements: The IDs that it names, if any.
        left_out: Why it is not run though it could be, such as ``-k 'data'``; empty where it is run.
        not_applicable: Why it is not run because it does not concern what is under test; empty where it is run.
        variant: Which of the run's variants it is of; empty where it is of none.
    """

    id: str
    requirements: tuple[str, ...]
    left_out: str = ""
    not_applicable: str = ""
    variant: str = ""


@attrs.frozen
class Plan:
    """What a run means to do.

    Args:
        requirements: All requirements, whether a test names them or not.
        tests: The tests that are to be run, and those that name requirements and are not.
        transports: The transports that were selected.
        variants: What the run was repeated with, such as guest kernels; one or none where it was not.
    """

    requirements: tuple[Requirement, ...] = ()
    tests: tuple[PlannedTest, ...] = ()
    transports: tuple[Transport, ...] = ()
    variants: tuple[str, ...] = ()
