# SPDX-License-Identifier: Apache-2.0
"""Who breaks what, and which test is to notice.

A saboteur is a function that returns a context in which one thing is broken, and claims the requirements that it
breaks::

    @breaks("VSOCK-CLOSE-002")
    @contextlib.contextmanager
    def keeps_the_host_waiting_for_the_end() -> Iterator[None]:
        \"\"\"A guest's end is not passed on.\"\"\"

It is in any module of this package. One that is not a function of this process, such as an agent in a guest that can be
told to break something, is made known with :func:`register`.

``rings/NAME.py`` is the table of the ring ``suites/NAME``, which joins by having it. Tests of one file that need other
options than the rest, or much time, have a table of their own: ``rings/NAME_FILE.py`` is that of
``suites/NAME/test_FILE.py``, and ``rings/NAME_FILE_WORD.py`` that of those among them that have WORD, such as a driver,
among their parameters.

- ``FAULTS`` says which saboteur is at work in which test. A test without one is left out of the runs with saboteurs.
- ``EVERY_TEST = True`` promises that there is no such test.
- ``OPTIONS`` are further options of ``kvtest run`` for these runs.
- ``HOST`` is the host that is given to ``kvtest run``, where that is not this machine.
- The module is a pytest plugin in them: its hooks can do what no context can. ``plugin.fault_of`` gives a test's fault.

``tests/unit/conformance/test_coverage.py`` checks the claims against the suites; ``test_rings.py`` and ``test_lab.py``
run the ring with its saboteurs at work.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
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

    def decorate(work: Break) -> Saboteur:
        name = f"{work.__module__.removeprefix(tests.saboteurs.__name__ + '.')}.{work.__name__}"
        return register(Saboteur(name, (work.__doc__ or "").partition("\n")[0], requirements, work))

    return decorate


def register(saboteur: Saboteur) -> Saboteur:
    """Make a saboteur known.

    Args:
        saboteur: The saboteur; no other has its name.
    """
    assert saboteur.name not in _ALL, saboteur.name
    return _ALL.setdefault(saboteur.name, saboteur)


@functools.cache
def saboteurs() -> Sequence[Saboteur]:
    """Return every saboteur of this package, whether it is in a table or not."""
    for module in pkgutil.walk_packages(tests.saboteurs.__path__, tests.saboteurs.__name__ + "."):
        if not module.name.rpartition(".")[2].startswith("test_"):
            importlib.import_module(module.name)
    return tuple(_ALL.values())


def tables() -> list[str]:
    """Return the names of all tables."""
    return sorted(path.stem for path in (Path(__file__).parent / "rings").glob("*.py") if path.stem != "__init__")


def faults(table: str) -> Sequence[Fault]:
    """Return what is in a table.

    Args:
        table: Its name.
    """
    found: Sequence[Fault] = _module(table).FAULTS
    return found


def options(table: str) -> Sequence[str]:
    """Return the options of ``kvtest run`` with which the tests of a table run with their saboteurs.

    Args:
        table: Its name.
    """
    return tuple(getattr(_module(table), "OPTIONS", ()))


def host(table: str) -> str | None:
    """Return the host on which the tests of a table run with their saboteurs; ``None`` for this machine.

    Args:
        table: Its name.
    """
    found: str | None = getattr(_module(table), "HOST", None)
    return found


def breaks_every_test(table: str) -> bool:
    """Return whether a table promises that each of its tests has a fault.

    Args:
        table: Its name.
    """
    return bool(getattr(_module(table), "EVERY_TEST", False))


def _module(table: str) -> ModuleType:
    return importlib.import_module(f"{tests.saboteurs.__name__}.rings.{table}")


def faults_of(test: str, table: Sequence[Fault]) -> list[Fault]:
    """Return the faults of a test, one for each run.

    Args:
        test: Its node ID.
        table: The table of its ring.
    """
    concerned = [fault for fault in table if fault.concerns(test)]
    return [fault for fault in concerned if not fault.also][:1] + [fault for fault in concerned if fault.also]


def table_of(test: str) -> str:
    """Return the table of a test: that of its file and a parameter, or else that of its file, or else that of its ring.

    Args:
        test: Its node ID.
    """
    file, _, name = test.partition("::")
    own = f"{ring_of(test)}_{Path(file).stem.removeprefix('test_')}"
    words = name.partition("[")[2].removesuffix("]").split("-")
    there = tables()
    return next((table for table in (*(f"{own}_{word}" for word in words), own) if table in there), ring_of(test))


def ring_of(test: str) -> str:
    """Return the ring of a test.

    Args:
        test: Its node ID.
    """
    return Path(test.partition("::")[0]).parts[1]
