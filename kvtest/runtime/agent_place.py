# SPDX-License-Identifier: Apache-2.0
"""Where the agent under test is, as the settings say."""

from __future__ import annotations

from enum import Enum

from kvtest.errors import SettingError
from kvtest.image.recipe import AGENT_RECIPE, load_recipe
from kvtest.settings import SETTINGS, Settings
from kvtest.start import AgentStart

_WHOLE = ("agent_kernel", "agent_initrd", "agent_image")


class AgentPlace(Enum):
    """Where an agent is, and with it whether anything of ours is beside it."""

    SERVICE = "in our image, beside kvtest's control daemon"
    INIT = "the first process of our image"
    WHOLE = "in a guest that is somebody else's as a whole"
    ADDRESS = "in a guest of its own that runs already"

    @property
    def bare(self) -> bool:
        """Whether we boot its guest, and have no control daemon in it."""
        return self in (AgentPlace.INIT, AgentPlace.WHOLE)


def agent_place(settings: Settings, recipe: str | None = None) -> AgentPlace:
    """Return where the agent under test is.

    Args:
        settings: The settings.
        recipe: Name of the recipe of a guest with it; that of the suites if ``None``.

    Raises:
        SettingError: The settings contradict each other.
        UsageError: There is no such recipe.
    """
    whole = [name for name in _WHOLE if getattr(settings, name) is not None]
    others = [name for name in ("agent", "agent_start", "agent_address") if getattr(settings, name) is not None]
    if settings.agent_address is not None and (whole or len(others) > 1):
        _refuse("agent_address", [*whole, *others], "an agent that runs already is not started")
    if settings.agent_address is not None:
        return AgentPlace.ADDRESS
    if whole:
        if others:
            _refuse(whole[0], others, "the agent of a whole guest is in it, and starts as it was built to")
        if whole == ["agent_initrd", "agent_image"] or len(whole) == len(_WHOLE):
            _refuse("agent_initrd", ["agent_image"], "a guest has its root in one of them")
        if "agent_kernel" not in whole:
            raise SettingError(f"{_flag(whole[0])} needs {_flag('agent_kernel')}: the kernel that it is to boot with")
        if len(whole) == 1:
            either = " or ".join(map(_flag, _WHOLE[1:]))
            raise SettingError(f"{_flag('agent_kernel')} needs {either}: what the kernel is to boot")
        return AgentPlace.WHOLE
    recipe = AGENT_RECIPE if recipe is None else recipe
    asked = settings.agent_start if recipe == AGENT_RECIPE else None
    start = asked or load_recipe(recipe).agent_start
    return AgentPlace.INIT if start is AgentStart.INIT else AgentPlace.SERVICE


def _refuse(name: str, others: list[str], reason: str) -> None:
    other = next(one for one in others if one != name)
    raise SettingError(f"{_flag(name)} and {_flag(other)} exclude each other: {reason}")


def _flag(name: str) -> str:
    return SETTINGS[name].flag
