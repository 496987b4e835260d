# SPDX-License-Identifier: Apache-2.0
"""Text that came from a guest, made fit for XML and for a terminal.

A guest writes what it likes to its console: colours, cursor movements, NUL bytes, bytes that are no UTF-8. XML 1.0
allows few control characters and no surrogates (section 2.2), and a terminal obeys escape sequences.
"""

from __future__ import annotations

import re

# ECMA-48: control sequences (5.4), control strings (5.6), and escape sequences of two or more bytes (ECMA-35, 13.2.1);
# the 8-bit forms of the first two as well. A string without its end is no string: it does not swallow what follows.
_ANSI = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x90\x98\x9b-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
)
_LINE_END = re.compile(r"\r+\n?")
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def safe(text: str) -> str:
    r"""Return ``text`` with only what XML 1.0 and a terminal can show.

    - Escape sequences (colours, cursor movements, window titles) are dropped.
    - Carriage returns become line ends, together with a line feed that follows.
    - Every other control character, NUL included, is shown as ``\x00``; tabs and line feeds stay.
    - A byte that was no UTF-8, decoded with ``surrogateescape``, is shown as ``\xff``; any other lone surrogate as
      ``\ud800``, the two noncharacters that XML forbids as ``\ufffe`` and ``\uffff``.

    Doing it again changes nothing.

    Args:
        text: Anything.
    """
    return _UNSAFE.sub(_visible, _LINE_END.sub("\n", _ANSI.sub("", text)))


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # what PEP 383 makes of the bytes 0x80 to 0xff
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def excerpt(text: str, limit: int) -> str:
    """Return ``text`` made safe; where it is long, its head and tail with a note between them.

    Each part is made safe by itself, so that nothing in the head can swallow the note.

    Args:
        text: Anything.
        limit: Characters of ``text`` that stay. What is returned can be longer: a control character takes four.
    """
    if len(text) <= limit:
        return safe(text)
    head = limit // 2
    tail = limit - head
    # The end of a log tells more often what went wrong, its beginning what was run: both stay.
    note = f"[… {len(text) - limit} characters left out …]"
    return f"{safe(text[:head])}\n{note}\n{safe(text[len(text) - tail :])}"
