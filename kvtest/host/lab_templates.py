# SPDX-License-Identifier: Apache-2.0
"""Makes templates of guests under a lab host's KVM; runs in the lab.

``python3 -m kvtest.host.lab_templates SETTINGS RINGS`` takes two JSON documents and prints a third, after lines that
tell what it is about to do: the last of them says where it was, should it never end.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from kvtest.conformance.requirements import Ring
from kvtest.errors import KvtestError
from kvtest.harness import GuestFactory, GuestRequest
from kvtest.image.recipe import AGENT_RECIPE
from kvtest.runtime.agent_place import AgentPlace, agent_place
from kvtest.runtime.reference import preparation
from kvtest.settings import load
from kvtest.vm import Configuration


def kinds(factory: GuestFactory, rings: Collection[Ring]) -> list[Configuration]:
    """Return the kinds of guests that a run in a lab host has.

    Args:
        factory: Makes them.
        rings: The rings that are run and have guests of our images.
    """
    recipes: list[str | None] = [] if set(rings) == {Ring.RUNTIME} else [None]  # it takes minutes to make one
    recipes += [AGENT_RECIPE] if Ring.AGENT in rings and agent_place(factory.settings) is not AgentPlace.INIT else []
    requests = [
        GuestRequest(kernel=kernel, image=recipe) for kernel in factory.settings.guest_kernel for recipe in recipes
    ]
    found = [factory.configuration(request, vsock=False) for request in requests]
    return [*found, *([preparation.configuration(factory.with_our_agent())] if Ring.RUNTIME in rings else [])]


def main() -> None:
    """Print ``made``, the directories of the templates, or ``problem``, why there are none, in one line of JSON."""
    flags, rings = map(json.loads, sys.argv[1:])
    settings = load(flags, {}, {}, Path("/work")).settings
    factory = GuestFactory(settings, Path("/work/making"), progress=_tell)
    try:
        templates = [factory.template(kind) for kind in kinds(factory, set(map(Ring, rings)))]
        said: dict[str, object] = {"made": [str(template.directory) for template in templates]}
    except KvtestError as error:
        said = {"problem": error.message}
    sys.stdout.write(json.dumps(said) + "\n")


@contextlib.contextmanager
def _tell(step: str) -> Iterator[None]:
    sys.stdout.write(f"{step}\n")
    yield


if __name__ == "__main__":
    main()
