# SPDX-License-Identifier: Apache-2.0
"""Who breaks what, and which test is to notice.

A saboteur is a function that returns a context in which one thing is broken, and claims the requirements that it
breaks::

    @breaks("VSOCK-CLOSE-002")
    @contextlib.contextmanager
    def keeps_the_host_waiting_for_the_end() -> Iterator[None]:
        \"\"\"A guest's end is not passed on.\"\"\"

It is in any module of this package. ``rings/NAME.py`` is the table of the ring ``suites/NAME``: which saboteur is at
work in which test. A ring joins by having such a file; ``tests/unit/conformance/test_coverage.py`` then checks the
claims against the suites, and ``test_rings.py`` runs the ring with its saboteurs at work.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import attrs

import tests.saboteurs

Break = Callable[[], contextlib.AbstractContextManager[None]]

_ALL: dict[str, Saboteur] = {}


@attrs.frozen
class Saboteur:
    """An implementation that breaks promises on purpose.

    Args:
        name: Its module and function.
        what: What is broken, in one sentence.
        requirements: The IDs of the requirements that it claims to break.
        work: Returns a context in which it is broken.
    """

    name: str
    what: str
    requirements: tuple[str, ...]
    work: Break


class Fault(NamedTuple):
    """A saboteur at work in some tests.

    Args:
        tests: Shell pattern of the tests' IDs, from the name of the file on and without its ``.py``; brackets are
            themselves.
        saboteur: The saboteur.
        message: A part of the first line of the tests' failures.
        also: Whether it is at work in another run of these tests, besides the first fault that matches.
    """

    tests: str
    saboteur: Saboteur
    message: str
    also: bool = False

    def concerns(self, test: str) -> bool:
        """Return whether it is at work in a test.

        Args:
            test: The node ID.
        """
        pattern = re.sub(r"[\[\]]", lambda match: f"[{match[0]}]", self.tests)
        file, separator, name = test.partition("::")
        return fnmatch.fnmatchcase(f"{Path(file).stem}{separator}{name}", pattern)


def breaks(*requirements: str) -> Callable[[Break], Saboteur]:
    """Make a function a saboteur that claims to break requirements.

    Args:
        requirements: Their IDs.
    """

    def register(work: Break) -> Saboteur:
        name = f"{work.__module__.removeprefix(tests.saboteurs.__name__ + '.')}.{work.__name__}"
        saboteur = Saboteur(name, (work.__doc__ or "").partition("\n")[0], requirements, work)
        _ALL[name] = saboteur
        return saboteur

    return register


@functools.cache
def saboteurs() -> Sequence[Saboteur]:
    """Return every saboteur of this package, whether it is in a table or not."""
    for module in pkgutil.walk_packages(tests.saboteurs.__path__, tests.saboteurs.__name__ + "."):
        if not module.name.rpartition(".")[2].startswith("test_"):
            importlib.import_module(module.name)
    return tuple(_ALL.values())


def rings() -> list[str]:
    """Return the rings that have a table."""
    return sorted(path.stem for path in (Path(__file__).parent / "rings").glob("*.py") if path.stem != "__init__")


def faults(ring: str) -> Sequence[Fault]:
    """Return the table of a ring.

    Args:
        ring: Its name.
    """
    table: Sequence[Fault] = importlib.import_module(f"tests.saboteurs.rings.{ring}").FAULTS
    return table


def unbroken(ring: str) -> Mapping[str, str]:
    """Return the tests of a ring that no saboteur is at work in: why, by ``::`` and the name of the function.

    Args:
        ring: Its name.
    """
    table: Mapping[str, str] = getattr(importlib.import_module(f"tests.saboteurs.rings.{ring}"), "UNBROKEN", {})
    return table


def faults_of(test: str, table: Sequence[Fault]) -> list[Fault]:
    """Return the faults of a test, one for each run.

    Args:
        test: Its node ID.
        table: The table of its ring.
    """
    concerned = [fault for fault in table if fault.concerns(test)]
    return [fault for fault in concerned if not fault.also][:1] + [fault for fault in concerned if fault.also]


def ring_of(test: str) -> str:
    """Return the ring of a test.

    Args:
        test: Its node ID.
    """
    return Path(test.partition("::")[0]).parts[1]
