# SPDX-License-Identifier: Apache-2.0
"""Where a machine is in its life, and what it can be asked there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import StrEnum
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from kvtest.errors import StateError

P = ParamSpec("P")
R = TypeVar("R")


class State(StrEnum):
    """Where a machine is in its life."""

    DEFINED = "defined"
    BOOTING = "booting"
    READY = "ready"
    PAUSED = "paused"
    DEAD = "dead"


class Living(Protocol):
    """What has a state.

    Attributes:
        name: What to call it in messages.
    """

    name: str

    @property
    def state(self) -> State:
        """Where it is in its life."""


L = TypeVar("L", bound=Living)


def requires(
    *states: State, instead: str
) -> Callable[[Callable[Concatenate[L, P], R]], Callable[Concatenate[L, P], R]]:
    """Refuse a call in any other state.

    Args:
        states: Where the call is allowed.
        instead: What to do otherwise, for the message.
    """

    def decorate(method: Callable[Concatenate[L, P], R]) -> Callable[Concatenate[L, P], R]:
        @functools.wraps(method)
        def checked(self: L, /, *args: P.args, **kwargs: P.kwargs) -> R:
            if self.state not in states:
                allowed = " or ".join(states)
                raise StateError(
                    f"{method.__name__}() needs a machine that is {allowed}, {self.name} is {self.state}", hint=instead
                )
            return method(self, *args, **kwargs)

        return checked

    return decorate
