# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

from kvtest.settings import markdown


def test_the_document_holds_the_table() -> None:
    document = Path(__file__).parents[3] / "docs/settings.md"
    assert document.read_text().endswith(markdown()), "write markdown() into docs/settings.md again"
