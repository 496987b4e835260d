# SPDX-License-Identifier: Apache-2.0
"""What a failed comparison of large values says."""

from __future__ import annotations

import pytest

from kvtest.comparison import assert_equal


@pytest.mark.parametrize(
    ("seen", "expected", "message"),
    [
        (b"a" * 5 + b"x", b"a" * 5 + b"y", ["6 bytes, expected 6, the first 5 equal; there", "'aaaaax'", "'aaaaay'"]),
        ("abc", "abcd", ["3 characters, expected 4, the first 3 equal", "'abc'", "'abcd'"]),
        (b"", b"a", ["0 bytes, expected 1, the first 0 equal"]),
        ([(b"x", 1)], [(b"x", 2)], ["at [0][1]: 1, expected 2"]),
        ([(b"xy", 1)], [(b"xz", 1)], ["at [0][0]: 2 bytes, expected 2, the first 1 equal"]),
        ([1, 2, 3], [1], ["3 items, expected 1, the first 1 equal", "surplus: 2"]),
        ([1], [1, 2], ["missing: 2"]),
        (1, None, ["1, expected None"]),
    ],
)
def test_where_they_differ(seen: object, expected: object, message: list[str]) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_equal(seen, expected)
    for part in message:
        assert part in str(caught.value)


def test_the_message_is_short_and_quickly_there_for_large_values() -> None:
    seen = [(b"%04d\n" % number * 20000, number) for number in range(16)]
    expected = [*seen[:9], (seen[9][0][:50000] + b"?" + seen[9][0][50000:], 9), *seen[10:]]
    with pytest.raises(AssertionError) as caught:
        assert_equal(seen, expected)
    assert "at [9][0]: 100000 bytes, expected 100001, the first 50000 equal" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_equal_values_pass() -> None:
    assert_equal([b"a" * 10000], [b"a" * 10000])
