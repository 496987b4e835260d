# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvtest.cache import Store
from kvtest.errors import KvtestError
from kvtest.image import ImageCache, brought


def test_an_image_that_was_brought_needs_nothing_of_what_it_was_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(target: Path) -> dict[str, object]:
        (target / "vmlinuz").touch()
        return {}

    Store(tmp_path / "images").get("mine-own-0", build, lambda _text: pytest.fail("it waits"))
    asked = ("path:/gone", "/gone/mine.toml", Path("/gone/agent"), None)
    kernel, recipe, agent, start = asked
    cache = ImageCache(tmp_path)
    with pytest.raises(KvtestError, match="/gone"):
        cache.ensure(kernel, recipe, agent=agent, start=start)
    told = brought.environment({brought.key(*asked): "mine-own-0"})
    assert json.loads(told[brought.VARIABLE])
    monkeypatch.setenv(brought.VARIABLE, told[brought.VARIABLE])
    assert cache.ensure(kernel, recipe, agent=agent, start=start).name == "mine-own-0"
    with pytest.raises(KvtestError, match="/gone"):
        cache.ensure(kernel, recipe)
    assert brought.environment({}) == {}
