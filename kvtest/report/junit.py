# SPDX-License-Identifier: Apache-2.0
"""Results as JUnit XML, valid against the schema of the Jenkins xUnit plugin (``junit-10.xsd``).

Where properties of a test are
    The schema allows ``<properties>`` in ``<testsuite>`` only, not in ``<testcase>``; a report with them there is
    refused by Jenkins' xUnit step. So those of the run are in the suite, and those of each test are lines at the start
    of its ``<system-out>``, in the notation that readers of reports know for this case::

        [[PROPERTY|requirement=VSOCK-CLOSE-001]]

    Testmo reads them as properties (https://github.com/testmoapp/junitxml, "Properties in test output"); Jenkins and
    GitLab show the text with the test. A guest cannot forge such a line, nor ``[[ATTACHMENT|…]]``, which makes GitLab
    and Jenkins publish a file: in text that is not ours their brackets are parted.

What is in ``time``
    Of a test: setting up, running and tearing down. Of the suite: wall-clock time of the run, which with parallel
    workers is less than the sum of its tests.
"""

from __future__ import annotations

import contextlib
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from kvtest.errors import HostError
from kvtest.report.results import Outcome, Results, TestResult, stable_id
from kvtest.report.text import excerpt

TEXT_LIMIT = 100_000
"""Characters of one text (details, standard output …) that go into the report; GitLab refuses files over 30 MB."""
MESSAGE_LIMIT = 2_000
"""Characters of a message or of one property."""

_MARKER = re.compile(r"\[\[(?=/?(?:PROPERTY|ATTACHMENT)\b)", re.IGNORECASE)


def junit_xml(results: Results) -> bytes:
    """Return results as a JUnit report in UTF-8.

    Tests are in the order of their IDs, so that reports of two runs can be compared line by line.

    Args:
        results: What to report.
    """
    counts = results.count()
    totals = {
        "tests": str(len(results.tests)),
        "failures": str(counts[Outcome.FAILED]),
        "errors": str(counts[Outcome.ERROR]),
        "time": _seconds(results.duration),
    }
    root = ET.Element("testsuites", {"name": "kvtest", **totals})
    suite = ET.SubElement(
        root,
        "testsuite",
        {
            "name": _line(results.run.name),
            **totals,
            "skipped": str(counts[Outcome.SKIPPED]),
            "timestamp": _timestamp(results.run.start),
            "hostname": _line(results.run.hostname),
        },
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _run_properties(results).items():
        ET.SubElement(properties, "property", {"name": _line(name), "value": _line(value)})
    for test in sorted(results.tests, key=lambda test: test.id):
        _add_test(suite, test)
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def write_junit(results: Results, path: Path) -> None:
    """Write results as a JUnit report, whole or not at all.

    Args:
        results: What to report.
        path: The file; one that is there is replaced.

    Raises:
        HostError: It cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(junit_xml(results))
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise HostError(f"cannot write the report {path}: {error.strerror}") from error


def names(node_id: str) -> tuple[str, str]:
    """Return the class name and the name under which a report has a test.

    Args:
        node_id: The node ID. ``suites/a.py::TestB::test_c[x/y::z]`` has the class name ``suites.a.TestB`` and the name
            ``test_c[x/y::z]``: what stands in brackets is the parameter's own.
    """
    path, _, rest = stable_id(node_id).partition("::")
    if not rest:  # a file that could not be collected
        return path.removesuffix(".py").replace("/", "."), path.rpartition("/")[2]
    test, bracket, parameter = rest.partition("[")
    *classes, name = test.split("::")
    return ".".join([path.removesuffix(".py").replace("/", "."), *classes]), name + bracket + parameter


def _run_properties(results: Results) -> Mapping[str, str]:
    known = {"command": results.run.command, "complete": "yes" if results.complete else "no, the run was interrupted"}
    return {name: value for name, value in known.items() if value} | results.run.properties


def _add_test(suite: ET.Element, test: TestResult) -> None:
    class_name, name = names(test.id)
    case = ET.SubElement(
        suite, "testcase", {"classname": _line(class_name), "name": _line(name), "time": _seconds(test.duration)}
    )
    tag = {Outcome.FAILED: "failure", Outcome.ERROR: "error", Outcome.SKIPPED: "skipped"}.get(test.outcome)
    if tag is not None:
        ET.SubElement(case, tag, {"message": _line(test.message)}).text = _text(test.details)
    lines = [f"[[PROPERTY|{_line(name)}={_line(value)}]]" for name, value in test.properties.items()]
    output = "\n".join([*lines, *([_text(test.stdout)] if test.stdout else [])])
    if output:
        ET.SubElement(case, "system-out").text = output
    if test.stderr:
        ET.SubElement(case, "system-err").text = _text(test.stderr)


def _text(text: str) -> str:
    return _MARKER.sub("[ [", excerpt(text, TEXT_LIMIT))


def _line(text: str) -> str:
    # Attribute values: XML turns line feeds and tabs in them into spaces anyway.
    return _MARKER.sub("[ [", excerpt(text, MESSAGE_LIMIT).replace("\n", " ").replace("\t", " "))


def _seconds(duration: float) -> str:
    # Never negative (a clock that is set back) and never with an exponent: the schema wants digits.
    return f"{max(0.0, duration):.3f}"


def _timestamp(start: float) -> str:
    # As Ant's reports, from which all readers learned the format, have it: ISO 8601 in UTC without an offset.
    return datetime.fromtimestamp(start, UTC).replace(tzinfo=None).isoformat(timespec="seconds")
