# SPDX-License-Identifier: Apache-2.0
"""Results of a run: written as they come, then turned into reports."""

from __future__ import annotations

from kvtest.report.evidence import evidence, failures, verdicts
from kvtest.report.junit import junit_xml, write_junit
from kvtest.report.results import Outcome, ResultLog, Results, RunInfo, TestResult, stable_id
from kvtest.report.summary import summary_lines

__all__ = [
    "Outcome",
    "ResultLog",
    "Results",
    "RunInfo",
    "TestResult",
    "evidence",
    "failures",
    "junit_xml",
    "stable_id",
    "summary_lines",
    "verdicts",
    "write_junit",
]
