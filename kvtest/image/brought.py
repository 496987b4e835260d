# SPDX-License-Identifier: Apache-2.0
"""Images that were brought to this machine with what they were made of left behind: kernels, recipes, agents.

Whoever starts kvtest here says which image is meant where such a thing is named by its path on the other machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from kvtest.start import AgentStart

VARIABLE = "_KVTEST_IMAGES"
"""The variable that says so: a JSON object from :func:`key` to names of images in the cache."""


def key(kernel: str, recipe: str, agent: Path | None, start: AgentStart | None) -> str:
    """Return what an image is asked for by; the arguments are those of :meth:`kvtest.image.ImageCache.ensure`."""
    return json.dumps([kernel, recipe, str(agent or ""), str(start or "")])


def environment(images: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that tell of images.

    Args:
        images: Their names by :func:`key`.
    """
    return {VARIABLE: json.dumps(dict(images))} if images else {}


def name_of(kernel: str, recipe: str, agent: Path | None, start: AgentStart | None) -> str | None:
    """Return the name of the image that was brought for this, if there is one."""
    told = os.environ.get(VARIABLE)
    name = json.loads(told).get(key(kernel, recipe, agent, start)) if told else None
    return None if name is None else str(name)
