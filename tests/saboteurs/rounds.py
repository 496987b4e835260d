# SPDX-License-Identifier: Apache-2.0
"""What runs of a table's tests with its saboteurs at work have to show."""

from __future__ import annotations

from kvtest.conformance import Answer, shipped
from kvtest.report import Results, evidence
from tests.saboteurs.plugin import fault_of
from tests.saboteurs.registry import faults, faults_of, table_of
from tests.suites import suite_tests


class Rounds:
    """The runs of one table: each test has one of its faults in each of them.

    Args:
        table: Its name.

    Attributes:
        tests: The tests of the table, and the requirements that each names.
        count: How many runs it takes until each fault was at work.
    """

    def __init__(self, table: str) -> None:
        self.tests = {test: names for test, names in suite_tests().items() if table_of(test) == table}
        self.count = max(len(faults_of(test, faults(table))) for test in self.tests)
        self._broken: set[str] = set()
        self._astray: dict[str, str] = {}

    def take(self, number: int, ran: Results) -> None:
        """Check that every test of a run has noticed what was broken.

        Args:
            number: The number of the run, from 0.
            ran: Its results.
        """
        survivors = [f"{one.id}: {one.outcome}" for one in ran.tests if evidence(one).answer is not Answer.BROKEN]
        assert not survivors, "tests that did not notice what was broken:\n" + "\n".join(survivors)
        for test in ran.tests:
            fault = fault_of(test.id, number)
            assert fault is not None
            if fault.message not in test.message:
                self._astray[test.id] = test.message
            # What else the test checks may well have been kept.
            self._broken |= set(test.requirements) & set(fault.saboteur.requirements)

    def conclude(self) -> None:
        """Check that every binding requirement of the table was seen to be broken, and for no other reason."""
        astray = "\n".join(f"{test}: {message}" for test, message in self._astray.items())
        assert not astray, f"tests that failed for another reason than what was broken:\n{astray}"
        named = {name for names in self.tests.values() for name in names}
        binding = {requirement.id for requirement in shipped() if requirement.id in named and requirement.level.binding}
        assert binding - self._broken == set(), "nobody has been seen to break them"
