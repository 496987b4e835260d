# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest

from kvtest.cache import Store
from kvtest.errors import KvtestError, RecipeError
from kvtest.harness import GuestFactory
from kvtest.image import ImageCache, brought
from kvtest.image.recipe import AGENT_RECIPE
from kvtest.settings import Settings


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


def test_an_agent_that_was_brought_as_an_image_is_not_looked_for_here(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = GuestFactory(attrs.evolve(settings, agent=Path("/gone/agent")), tmp_path)
    with pytest.raises(RecipeError, match="could not read the agent /gone/agent: No such file"):
        factory.look_at_agent()
    asked = (settings.kernel, AGENT_RECIPE, Path("/gone/agent"), None)
    for name, value in brought.environment({brought.key(*asked): "mine-own-0"}).items():
        monkeypatch.setenv(name, value)
    factory.look_at_agent()
