# SPDX-License-Identifier: Apache-2.0
"""Text as no well-behaved guest would print it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

# Pieces that meet each other in all orders: halves of sequences, all sorts of controls, surrogates, XML's own.
PIECES = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *("\x1b[", "\x1b[31;1", "m", "\x1b]0;title", "\x1b\\", "\x1bP", "\x1b(B", "\x1b", "\r\n", "\r\r\n", "\\x1b"),
    *("\ud800", "\udcff", "\udc80", "\udfff", "\ufffe", "\uffff", "\U0001ffff", "\U0001f980", "é", "\u2028", "\ufeff"),
    *("<", "&", "]]>", "<!--", "[[", "PROPERTY|a=b]]", "[[ATTACHMENT|/x]]", "[[/property]]", '"', "'", " ", "word"),
]


@pytest.fixture
def nasty() -> Callable[[int, int], str]:
    """Return a function that makes text from a seed and a number of pieces."""

    def make(seed: int, pieces: int) -> str:
        return "".join(random.Random(seed).choices(PIECES, k=pieces))

    return make
