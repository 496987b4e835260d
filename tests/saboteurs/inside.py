# SPDX-License-Identifier: Apache-2.0
"""Saboteurs in the reference shim's own processes: Python imports ``sitecustomize`` there, which applies them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

from tests.saboteurs.registry import Saboteur, register
from tests.saboteurs.wrapper import REFERENCE, with_wrapped_shim

_ROOT = Path(__file__).parents[2]

PODS = "SABOTEUR_PODS"
"""The variable that says where saboteurs of several pods of a test may leave notes for each other."""

BREAKS: dict[str, Callable[[], None]] = {}
"""What is applied, by its module and name."""


def in_the_shim(*requirements: str) -> Callable[[Callable[[], None]], Saboteur]:
    """Make a function a saboteur that is called in each process of the shim and changes it there.

    Args:
        requirements: The IDs of the requirements that it claims to break.
    """

    def decorate(apply: Callable[[], None]) -> Saboteur:
        name = f"{apply.__module__.rpartition('.')[2]}.{apply.__name__}"

        @contextlib.contextmanager
        def work() -> Iterator[None]:
            with tempfile.TemporaryDirectory() as directory:
                customize = Path(directory) / "sitecustomize.py"
                customize.write_text(f"import {apply.__module__}\nfrom {__name__} import BREAKS\nBREAKS[{name!r}]()\n")
                variables = f"export PYTHONPATH={directory}:{_ROOT} {PODS}={directory}/pods"
                with with_wrapped_shim(variables, REFERENCE):
                    yield

        BREAKS[name] = apply
        what = (apply.__doc__ or "").partition("\n")[0]
        return register(Saboteur(name, what, requirements, work))

    return decorate


def replace(owner: object, name: str, new: object) -> None:
    """Put something else in a place, for the life of the process."""
    patch.object(owner, name, new).start()
