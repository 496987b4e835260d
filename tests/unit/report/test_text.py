# SPDX-License-Identifier: Apache-2.0
"""What happens to text that a guest made up."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree as ET

import pytest

from kvtest.report.text import excerpt, safe


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[31mred\x1b[0m \x1b[1;38;5;12mblue\x1b[m", "red blue"),
        ("\x1b[2J\x1b[H\x1b[?25lcleared\x1b[10;20H", "cleared"),
        ("\x1b]0;a title\x07after", "after"),
        ("\x1b]8;;https://x.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq data\x1b\\after", "after"),
        ("\x9b31mred\x9b0m \x9dtitle\x9c", "red "),
        ("\x1b(Bcharset\x1b7\x1b8\x1bc", "charset"),
        ("\x1b[31", "\\x1b[31"),
        ("\x1b]0;no end\nnext line", "\\x1b]0;no end\nnext line"),
        ("ends with \x1b", "ends with \\x1b"),
        ("one\r\ntwo\r\r\nthree\rfour", "one\ntwo\nthree\nfour"),
        ("a\0b\x07c\x7fd\x85e", "a\\x00b\\x07c\\x7fd\\x85e"),
        (b"caf\xe9 \xff".decode("utf-8", "surrogateescape"), "caf\\xe9 \\xff"),
        ("\ud800 \udfff \ufffe \uffff", "\\ud800 \\udfff \\ufffe \\uffff"),
        ("é \U0001f980 \U0001ffff", "é \U0001f980 \U0001ffff"),
        ("\x1b\x1b[31m[32m", "\\x1b[32m"),
    ],
)
def test_safe(text: str, shown: str) -> None:
    assert safe(text) == shown


@pytest.mark.parametrize("seed", range(300))
def test_safe_text_survives_xml_and_a_second_time(seed: int, nasty: Callable[[int, int], str]) -> None:
    shown = safe(nasty(seed, 60))
    assert safe(shown) == shown
    assert not [c for c in shown if (ord(c) < 0x20 and c not in "\t\n") or 0x7F <= ord(c) < 0xA0]
    element = ET.Element("text")
    element.text = shown
    assert (ET.fromstring(ET.tostring(element, encoding="utf-8")).text or "") == shown


def test_many_unfinished_sequences_stay_visible() -> None:
    # 100 000 beginnings without an end: a pattern that looked for the end of each would not come back.
    for beginning in ("\x1b]", "\x9d", "\x1b[", "\x1b", "\x90"):
        assert safe(beginning * 100_000).count("\\x") == 100_000


def test_an_excerpt_keeps_head_and_tail() -> None:
    assert excerpt("01234\0", 6) == "01234\\x00"
    assert excerpt("0123456789A", 10) == "01234\n[… 1 characters left out …]\n6789A"
    assert excerpt("x" * 1000 + "end", 5) == "xx\n[… 998 characters left out …]\nend"
    assert excerpt("abc", 1) == "\n[… 2 characters left out …]\nc"
    assert excerpt("\x1b]0;" + "x" * 10 + "\x07", 8) == "\\x1b]0;\n[… 7 characters left out …]\nxxx\\x07"
