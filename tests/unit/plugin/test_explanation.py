# SPDX-License-Identifier: Apache-2.0
"""What is said of a failure."""

from __future__ import annotations

from kvtest.plugin.explanation import overload


def test_a_busy_machine_is_named() -> None:
    (line,) = overload(9.8, 2)
    assert "load average of 9.8 on 2 processors" in line


def test_a_machine_that_does_what_it_was_asked_for_is_not() -> None:
    assert overload(3.4, 2) == []
