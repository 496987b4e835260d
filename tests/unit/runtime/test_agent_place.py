# SPDX-License-Identifier: Apache-2.0
"""Where the agent under test is, as settings say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvtest.errors import SettingError
from kvtest.runtime.agent_place import AgentPlace, agent_place
from kvtest.settings import load


def place(directory: Path, recipe: str | None = None, **flags: str) -> AgentPlace:
    return agent_place(load(flags, {"HOME": "/home/somebody"}, {}, directory).settings, recipe)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, AgentPlace.SERVICE),
        ({"agent": "/a"}, AgentPlace.SERVICE),
        ({"agent": "/a", "agent_start": "init"}, AgentPlace.INIT),
        ({"agent_start": "init"}, AgentPlace.INIT),
        ({"agent_kernel": "/k", "agent_initrd": "/i"}, AgentPlace.WHOLE),
        ({"agent_kernel": "/k", "agent_image": "/d", "agent_disk": "nvme"}, AgentPlace.WHOLE),
        ({"agent_address": "unix:///a"}, AgentPlace.ADDRESS),
    ],
)
def test_the_settings_say_where(tmp_path: Path, flags: dict[str, str], expected: AgentPlace) -> None:
    assert place(tmp_path, **flags) is expected
    assert expected.bare == (expected in (AgentPlace.INIT, AgentPlace.WHOLE))


def test_a_recipe_may_say_it_too(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('base = "agent"\nagent_start = "init"\n')
    assert place(tmp_path, str(recipe)) is AgentPlace.INIT
    assert place(tmp_path, "agent") is AgentPlace.SERVICE


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"agent_initrd": "/i"}, "--agent-initrd needs --agent-kernel"),
        ({"agent_kernel": "/k"}, "--agent-kernel needs --agent-initrd or --agent-image"),
        ({"agent_kernel": "/k", "agent_initrd": "/i", "agent_image": "/d"}, "--agent-initrd and --agent-image exclude"),
        ({"agent_initrd": "/i", "agent_image": "/d"}, "--agent-initrd and --agent-image exclude"),
        ({"agent_kernel": "/k", "agent_initrd": "/i", "agent": "/a"}, "--agent-kernel and --agent exclude"),
        ({"agent_kernel": "/k", "agent_initrd": "/i", "agent_start": "init"}, "--agent-start exclude"),
        ({"agent_address": "unix:///a", "agent": "/a"}, "--agent-address and --agent exclude"),
        ({"agent_address": "unix:///a", "agent_kernel": "/k"}, "--agent-address and --agent-kernel exclude"),
    ],
)
def test_settings_that_contradict_each_other(tmp_path: Path, flags: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        place(tmp_path, **flags)
