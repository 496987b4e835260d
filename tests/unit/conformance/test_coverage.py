# SPDX-License-Identifier: Apache-2.0
"""The suites, their requirements and their saboteurs belong together: nothing is without the other."""

from __future__ import annotations

import pytest

from kvtest.conformance import shipped
from kvtest.resources import suites_directory
from tests.saboteurs import document
from tests.saboteurs.registry import Fault, breaks_every_test, faults, faults_of, ring_of, saboteurs, table_of, tables
from tests.suites import suite_tests


def test_every_ring_has_tests() -> None:
    found = {path.parent.name for path in suites_directory().glob("*/__init__.py")}
    assert "transport" in found
    assert {ring_of(test) for test in suite_tests()} == found


def test_every_requirement_has_a_test() -> None:
    named = {name for names in suite_tests().values() for name in names}
    assert [requirement.id for requirement in shipped() if requirement.id not in named] == []


def test_every_requirement_has_a_test_in_each_of_its_rings() -> None:
    checked = {(name, ring_of(test)) for test, names in suite_tests().items() for name in names}
    wanted = {(requirement.id, str(ring)) for requirement in shipped() for ring in requirement.rings}
    assert checked == wanted


def test_every_test_names_a_requirement() -> None:
    assert [test for test, names in suite_tests().items() if not names] == []


def test_every_id_is_one_of_a_requirement() -> None:
    named = {name for names in suite_tests().values() for name in names}
    claimed = {name for saboteur in saboteurs() for name in saboteur.requirements}
    assert sorted(name for name in named | claimed if name not in shipped()) == []


def test_every_must_has_a_saboteur() -> None:
    claimed = {name for saboteur in saboteurs() for name in saboteur.requirements}
    without = [one.id for one in shipped() if one.level.binding and one.id not in claimed]
    assert without == []


def test_every_claim_is_checked_by_a_test() -> None:
    """A saboteur is at work in a test of each requirement that it claims to break."""
    unchecked = [
        (saboteur.name, name)
        for saboteur in saboteurs()
        for name in saboteur.requirements
        if not document.caught_by(saboteur, name)
    ]
    assert unchecked == []


def test_every_saboteur_claims_something_and_says_what() -> None:
    assert [saboteur.name for saboteur in saboteurs() if not saboteur.requirements or not saboteur.what] == []


@pytest.mark.parametrize("table", tables())
def test_a_saboteur_is_at_work_only_in_tests_of_what_it_breaks(table: str) -> None:
    tests = {test: names for test, names in suite_tests().items() if table_of(test) == table}
    strangers = [
        (test, fault.saboteur.name)
        for test, names in tests.items()
        for fault in faults_of(test, faults(table))
        if not set(names) & set(fault.saboteur.requirements)
    ]
    assert strangers == []
    idle = [fault.tests for fault in faults(table) if not any(fault in faults_of(t, faults(table)) for t in tests)]
    assert idle == []


@pytest.mark.parametrize("table", [table for table in tables() if breaks_every_test(table)])
def test_every_test_has_something_broken(table: str) -> None:
    tests = [test for test in suite_tests() if table_of(test) == table]
    assert tests
    assert [test for test in tests if not faults_of(test, faults(table))] == []


def test_the_document_is_up_to_date() -> None:
    assert document.DOCUMENT.read_text() == document.document(), f"{document.COMMAND} writes it again"


def test_a_fault_is_of_the_first_line_that_matches_and_of_those_that_come_besides() -> None:
    any_saboteur = saboteurs()[0]
    first = Fault("test_a::test_x*-1]", any_saboteur, "one")
    second = Fault("test_a::test_x*", any_saboteur, "any")
    besides = Fault("test_a::test_x[[]a-1]", any_saboteur, "no such test", also=True)
    other = Fault("test_a::test_x[a-1]", any_saboteur, "besides", also=True)
    table = [first, second, besides, other]
    assert faults_of("suites/r/test_a.py::test_x[a-1]", table) == [first, other]
    assert faults_of("suites/r/test_a.py::test_x[a-2]", table) == [second]
    assert faults_of("suites/r/deep/test_a.py::test_x[/a-1]", table) == [first]
    assert faults_of("suites/r/test_b.py::test_x[a-1]", table) == []


def test_the_ring_of_a_test_is_its_directory() -> None:
    assert ring_of("suites/agent/deep/test_a.py::test_x[a/b]") == "agent"


def test_a_file_can_have_a_table_of_its_own() -> None:
    assert table_of("suites/runtime/test_machine.py::test_x") == "runtime_machine"
    assert table_of("suites/runtime/test_failure.py::test_x[a/b]") == "runtime"


def test_so_can_those_of_its_tests_that_have_a_parameter() -> None:
    assert table_of("suites/runtime/test_machine.py::test_x[1-containerd-a]") == "runtime_machine_containerd"
    assert table_of("suites/runtime/test_machine.py::test_x[1-direct-a]") == "runtime_machine"
    assert table_of("suites/runtime/test_failure.py::test_x[containerd]") == "runtime"
