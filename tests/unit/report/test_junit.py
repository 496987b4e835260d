# SPDX-License-Identifier: Apache-2.0
"""JUnit reports: valid against the Jenkins schema, whatever a guest prints."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from kvtest.errors import HostError
from kvtest.report import Outcome, Results, RunInfo, TestResult, junit_xml, write_junit
from kvtest.report.junit import MESSAGE_LIMIT, TEXT_LIMIT, names

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def schema() -> Any:
    return etree.XMLSchema(etree.parse(DATA / "junit.xsd"))


def result(name: str = "suites/a.py::test_x", outcome: Outcome = Outcome.PASSED, **fields: Any) -> TestResult:
    return TestResult(id=name, outcome=outcome, **{"start": 1000.0, "duration": 0.5, **fields})


def results(*tests: TestResult, end: float | None = 1012.3456) -> Results:
    run = RunInfo(start=1000.0, hostname="host", name="transport", command="kvtest run", properties={"qemu": "7.2.22"})
    return Results(run, tests, end)


def parsed(schema: Any, reported: Results) -> Any:
    root = etree.fromstring(junit_xml(reported))
    schema.assertValid(root)
    return root


def test_a_whole_report(schema: Any) -> None:
    properties = {"requirement": "VSOCK-CLOSE-001", "transport": "vhost-user-vsock", "artifacts": "/r/a b"}
    reported = results(
        result("suites/a.py::test_x[2]", stdout="out", stderr="err", properties=properties),
        result("suites/a.py::test_f", Outcome.FAILED, message="expected EOF\ngot b''", details="a\nb"),
        result("suites/a.py::test_e", Outcome.ERROR, message="no boot", details="console"),
        result("suites/a.py::TestS::test_s", Outcome.SKIPPED, message="needs KVM"),
    )
    assert parsed(schema, reported) is not None
    assert junit_xml(reported).decode() == (
        """<?xml version='1.0' encoding='utf-8'?>
<testsuites name="kvtest" tests="4" failures="1" errors="1" time="12.346">
  <testsuite name="transport" tests="4" failures="1" errors="1" time="12.346" skipped="1" \
timestamp="1970-01-01T00:16:40" hostname="host">
    <properties>
      <property name="command" value="kvtest run" />
      <property name="complete" value="yes" />
      <property name="qemu" value="7.2.22" />
    </properties>
    <testcase classname="suites.a.TestS" name="test_s" time="0.500">
      <skipped message="needs KVM" />
    </testcase>
    <testcase classname="suites.a" name="test_e" time="0.500">
      <error message="no boot">console</error>
    </testcase>
    <testcase classname="suites.a" name="test_f" time="0.500">
      <failure message="expected EOF got b''">a
b</failure>
    </testcase>
    <testcase classname="suites.a" name="test_x[2]" time="0.500">
      <system-out>[[PROPERTY|requirement=VSOCK-CLOSE-001]]
[[PROPERTY|transport=vhost-user-vsock]]
[[PROPERTY|artifacts=/r/a b]]
out</system-out>
      <system-err>err</system-err>
    </testcase>
  </testsuite>
</testsuites>
"""
    )


def test_the_schema_has_no_properties_in_a_test(schema: Any) -> None:
    # The reason why they are lines of system-out; if a later schema has them, that can be simpler.
    root = parsed(schema, results(result()))
    etree.SubElement(root.find(".//testcase"), "properties")
    with pytest.raises(etree.DocumentInvalid, match="properties"):
        schema.assertValid(root)


def test_a_run_that_was_killed_and_one_without_tests(schema: Any) -> None:
    killed = parsed(schema, results(result(start=1001.0), end=None))
    assert killed.get("time") == "1.500"
    assert killed.find(".//property[@name='complete']").get("value") == "no, the run was interrupted"
    empty = parsed(schema, results())
    assert (empty.get("tests"), empty.find("testsuite").get("skipped")) == ("0", "0")


@pytest.mark.parametrize("duration", [0.0, -1.0, 1e-9, 1234.5, 1e7])
def test_times_are_digits(schema: Any, duration: float) -> None:
    root = parsed(schema, results(result(duration=duration), end=1000.0 + duration))
    assert float(root.find(".//testcase").get("time")) == pytest.approx(max(0.0, duration), abs=0.0005)
    assert root.get("time") == root.find(".//testcase").get("time")


@pytest.mark.parametrize(
    ("node_id", "class_name", "name"),
    [
        ("suites/transport/test_close.py::test_x", "suites.transport.test_close", "test_x"),
        ("a.py::TestB::TestC::test_d[x/y::z.py]", "a.TestB.TestC", "test_d[x/y::z.py]"),
        ("a.py::test_b[c]@group", "a", "test_b[c]"),
        ("suites/broken.py", "suites.broken", "broken.py"),
        ("../a b/é.py::test_x", "...a b.é", "test_x"),
    ],
)
def test_names(node_id: str, class_name: str, name: str) -> None:
    assert names(node_id) == (class_name, name)


@pytest.mark.parametrize("seed", range(100))
def test_nothing_a_guest_prints_breaks_a_report(schema: Any, seed: int, nasty: Callable[[int, int], str]) -> None:
    chance = random.Random(seed)
    texts = [nasty(chance.randrange(2**32), chance.randrange(200)) for _ in range(9)]
    test = result(
        f"a.py::test[{texts[0]}]",
        chance.choice(list(Outcome)),
        message=texts[1],
        details=texts[2],
        stdout=texts[3],
        stderr=texts[4],
        properties={"transport": texts[5], texts[6] or "x": "v"},
    )
    run = RunInfo(start=1.0, hostname=texts[7], name=texts[8], properties={texts[6]: texts[5]})
    root = parsed(schema, Results(run, (test, test), None))
    assert len(root.findall(".//testcase")) == 2
    ours = root.find(".//system-out").text.split("\n")[:2]
    assert all(line.startswith("[[PROPERTY|") and line.endswith("]]") for line in ours)
    document = etree.tostring(root, encoding="unicode").upper()
    assert document.count("[[PROPERTY") == 4
    assert "[[ATTACHMENT" not in document
    assert "[[/PROPERTY" not in document


def test_huge_text_is_bounded(schema: Any) -> None:
    huge = "first\n" + "\0" * 5_000_000 + "\nlast"
    reported = results(result(outcome=Outcome.FAILED, message=huge, details=huge, stdout=huge, properties={"p": huge}))
    root = parsed(schema, reported)
    failure = root.find(".//failure")
    assert failure.text.startswith("first\n\\x00\\x00")
    assert failure.text.endswith("\\x00\nlast")
    assert "characters left out" in failure.text
    assert TEXT_LIMIT < len(failure.text) <= 4 * TEXT_LIMIT + 100
    assert MESSAGE_LIMIT < len(failure.get("message")) <= 4 * MESSAGE_LIMIT + 100
    assert len(junit_xml(reported)) < 8 * (TEXT_LIMIT + MESSAGE_LIMIT) + 2000


def test_the_order_of_workers_does_not_show() -> None:
    tests = [result(f"a.py::test[{number}]") for number in range(9)]
    shuffled = random.Random(1).sample(tests, len(tests))
    assert shuffled != tests
    assert junit_xml(results(*shuffled)) == junit_xml(results(*tests))


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "junit.xml"
    write_junit(results(), path)
    assert path.read_bytes() == junit_xml(results())
    assert list(path.parent.iterdir()) == [path]
    blocked = tmp_path / "directory"
    blocked.mkdir()
    with pytest.raises(HostError, match=r"cannot write the report .*: Is a directory"):
        write_junit(results(), blocked)
    assert sorted(tmp_path.iterdir()) == [blocked, path.parent]
