# SPDX-License-Identifier: Apache-2.0
"""What the user is told of a name that does not exist."""

from __future__ import annotations

from kvtest.errors import suggestion


def test_the_nearest_name_is_suggested() -> None:
    assert suggestion("runcc", ["runc", "kata"]) == "did you mean 'runc'?"


def test_all_names_are_told_unless_they_are_very_many() -> None:
    assert suggestion("x", ["b", "a"]) == "known: b, a"
    assert suggestion("x", []) == "there are none"
    told = suggestion("x", [f"name-{number:03}" for number in range(100)])
    assert told.endswith(", name-039, and 60 more")
