# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin under which every test of a ring meets something broken on purpose.

A test with several faults meets one in each of as many runs; ``SABOTEURS_ROUND`` says which of them this one is.
``SABOTEURS_TABLE`` names the one table that is at work. With ``SABOTEURS_ONCE`` each fault is at work in one case only
of a test with parameters.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kvtest.plugin.collection import requirements_of
from tests.saboteurs.registry import Fault, faults, faults_of, table_of

ROUND = "SABOTEURS_ROUND"
TABLE = "SABOTEURS_TABLE"
ONCE = "SABOTEURS_ONCE"


def fault_of(test: str, number: int | None = None) -> Fault | None:
    """Return what is broken for a test in a run, if it has a fault then.

    Args:
        test: Its node ID.
        number: The number of the run, from 0; this one's if not given.
    """
    table = table_of(test)
    if os.environ.get(TABLE, table) != table:
        return None
    found = faults_of(test, faults(table))
    number = int(os.environ.get(ROUND, "0")) if number is None else number
    return found[number] if number < len(found) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = [item for item in items if fault_of(item.nodeid) is not None]
    if ONCE in os.environ:
        first = {_case(item): item for item in reversed(kept)}
        kept = [item for item in kept if item is first[_case(item)]]
    if left_out := [item for item in items if item not in kept]:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def _case(item: pytest.Item) -> tuple[object, ...]:
    """Return what has to differ from another set of parameters of a test for both to be worth a run."""
    return item.nodeid.partition("[")[0], fault_of(item.nodeid), tuple(requirements_of(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    fault = fault_of(item.nodeid)
    assert fault is not None
    with fault.saboteur.work():
        return (yield)
