# SPDX-License-Identifier: Apache-2.0
"""From what tests say to a verdict for each requirement."""

from __future__ import annotations

import pytest

from kvtest.conformance import (
    Answer,
    Document,
    Evidence,
    Level,
    Plan,
    PlannedTest,
    Requirement,
    Ring,
    Source,
    Status,
    Verdict,
    judge,
)
from kvtest.transport import Transport

SOURCE = Source(Document("A specification", "https://spec.example"), "4.2")
KEPT, BROKEN, NONE, SKIPPED = Answer.KEPT, Answer.BROKEN, Answer.NONE, Answer.NOT_APPLICABLE


def requirement(name: str = "VSOCK-DATA-001", *transports: Transport) -> Requirement:
    return Requirement(name, Level.MUST, "It holds.", (SOURCE,), (Ring.TRANSPORT,), transports)


def verdict(*evidence: tuple[str, Answer, str], planned: tuple[PlannedTest, ...] = ()) -> Verdict:
    plan = Plan((requirement(),), planned, (Transport.VIRTIO_SERIAL,))
    (one,) = judge(plan, [Evidence(test, ("VSOCK-DATA-001",), answer, why) for test, answer, why in evidence])
    return one


def test_met_is_what_all_tests_of_it_have_found_kept() -> None:
    one = verdict(("a", KEPT, ""), ("b", KEPT, ""))
    assert (one.status, one.reason, one.checked_by, one.tests) == (Status.MET, "", ("a", "b"), 2)


@pytest.mark.parametrize("other", [KEPT, NONE, SKIPPED])
def test_one_test_is_enough_to_violate(other: Answer) -> None:
    one = verdict(("a", other, "why"), ("b", BROKEN, "it broke"), ("c", BROKEN, "it broke"), ("d", BROKEN, "again"))
    assert (one.status, one.reason) == (Status.VIOLATED, "it broke; again")
    assert one.violated_by == ("b", "c", "d")


def test_a_test_without_an_answer_is_no_reason_to_trust_the_others() -> None:
    one = verdict(("a", KEPT, ""), ("b", NONE, "no boot"))
    assert (one.status, one.reason) == (Status.NOT_TESTED, "b: no boot")


def test_neither_is_a_test_that_the_run_did_not_come_to() -> None:
    planned = tuple(PlannedTest(name, ("VSOCK-DATA-001",)) for name in "abc")
    assert verdict(("a", KEPT, ""), ("b", KEPT, ""), planned=planned).reason == "the run ended before c"
    one = verdict(("a", KEPT, ""), planned=planned)
    assert (one.status, one.reason) == (Status.NOT_TESTED, "the run ended before 2 of its tests")
    assert one.tests == 3


def test_a_test_that_does_not_apply_takes_nothing_from_the_others() -> None:
    planned = (PlannedTest("z", ("VSOCK-DATA-001",), not_applicable="transport x was not selected"),)
    one = verdict(("a", KEPT, ""), ("b", SKIPPED, "needs KVM"), planned=planned)
    assert (one.status, one.tests) == (Status.MET, 3)


def test_not_applicable_says_why() -> None:
    planned = (PlannedTest("z", ("VSOCK-DATA-001",), not_applicable="transport x was not selected"),)
    one = verdict(("a", SKIPPED, "needs KVM"), ("b", SKIPPED, "needs KVM"), planned=planned)
    assert (one.status, one.reason) == (Status.NOT_APPLICABLE, "needs KVM; transport x was not selected")


def test_what_was_left_out_could_have_been_tested() -> None:
    planned = (
        PlannedTest("y", ("VSOCK-DATA-001",), left_out="-k 'x'"),
        PlannedTest("z", ("VSOCK-DATA-001",), not_applicable="transport x was not selected"),
    )
    one = verdict(planned=planned)
    assert (one.status, one.reason) == (Status.NOT_TESTED, "left out by -k 'x'")
    assert verdict(("a", KEPT, ""), planned=planned).status is Status.MET


def test_without_any_test() -> None:
    over_vsock = requirement("VSOCK-CID-001", Transport.VHOST_USER_VSOCK)
    over_both = requirement("VSOCK-CID-002", *Transport)
    plan = Plan((requirement(), over_vsock, over_both), (), (Transport.VIRTIO_SERIAL,))
    assert [(one.status, one.reason) for one in judge(plan, [])] == [
        (Status.NOT_TESTED, "no test of it was selected"),
        (Status.NOT_APPLICABLE, "transport vhost-user-vsock was not selected"),
        (Status.NOT_TESTED, "no test of it was selected"),
    ]


def test_a_test_that_crashed_is_one_of_its_plan() -> None:
    plan = Plan((requirement(),), (PlannedTest("a", ("VSOCK-DATA-001",)), PlannedTest("b", ("VSOCK-DATA-001",))))
    kept, crashed = Evidence("a", ("VSOCK-DATA-001",), KEPT), Evidence("b", (), NONE, "worker crashed")
    (one,) = judge(plan, [kept, crashed])
    assert (one.status, one.reason) == (Status.NOT_TESTED, "b: worker crashed")


def test_what_is_not_in_the_plan_has_no_verdict() -> None:
    assert judge(Plan(), [Evidence("a", ("VSOCK-DATA-001",), BROKEN)]) == ()


def test_many_reasons_are_cut_short() -> None:
    one = verdict(*((f"t{number}", BROKEN, f"reason {number}") for number in range(5)))
    assert one.reason == "reason 0; reason 1; reason 2; and 2 more"
