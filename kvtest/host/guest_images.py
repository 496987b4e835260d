# SPDX-License-Identifier: Apache-2.0
"""Which guests a run on another machine has, and of which images: those are made here, whatever they are made of."""

from __future__ import annotations

from collections.abc import Collection

from kvtest.conformance.requirements import Ring
from kvtest.harness import GuestFactory
from kvtest.image import Image, brought
from kvtest.image.recipe import AGENT_RECIPE
from kvtest.runtime.agent_place import AgentPlace, agent_place
from kvtest.runtime.profile import load as load_profile
from kvtest.settings import Settings

_OF_OUR_IMAGES = (AgentPlace.SERVICE, AgentPlace.INIT)


def of_our_images(settings: Settings, rings: Collection[Ring]) -> set[Ring]:
    """Return the rings whose guests are made of our images: not those of somebody's whole guest, or other runtime.

    Args:
        settings: The settings of the run.
        rings: The rings that are run.
    """
    others = set() if agent_place(settings) in _OF_OUR_IMAGES else {Ring.AGENT}
    others |= set() if load_profile(settings.runtime).own else {Ring.RUNTIME}
    return set(rings) - others


def images(factory: GuestFactory, rings: Collection[Ring]) -> dict[str, Image]:
    """Return the images of the guests of a run, by what they are asked for by (:func:`kvtest.image.brought.key`).

    Args:
        factory: Makes them.
        rings: Those of :func:`of_our_images`.
    """
    settings = factory.settings
    makers = [factory] if Ring.AGENT in rings else []
    makers += [factory.with_our_agent()] if Ring.RUNTIME in rings else []
    found = {}
    for kernel in settings.guest_kernel:
        found[brought.key(kernel, settings.guest_image, None, None)] = factory.image(kernel)
        for maker in makers:
            key = brought.key(kernel, AGENT_RECIPE, maker.settings.agent, maker.settings.agent_start)
            found[key] = maker.image(kernel, AGENT_RECIPE)
    return found
