# SPDX-License-Identifier: Apache-2.0
"""Which tests are to be run, which requirements they check, and why others are not run; known before the first test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from kvtest.plugin import notes, options
from kvtest.plugin.collection import NOT_APPLICABLE, catalogue_of, is_ours, kernel_of, requirements_of

if TYPE_CHECKING:
    from kvtest.conformance import Plan, PlannedTest

_FILE = "plan.json"
_LEFT_OUT = pytest.StashKey["list[PlannedTest]"]()
_PLAN = pytest.StashKey["Plan"]()
# The options of pytest that leave out tests, by their names in its configuration.
_SELECTORS = {"keyword": "-k", "markexpr": "-m", "deselect": "--deselect", "lf": "--last-failed"}


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Note down which tests are left out, and why."""
    for item in items:
        names = requirements_of(item)
        if names:
            reason = item.stash.get(NOT_APPLICABLE, "")
            test = _planned(item, names, left_out="" if reason else _selector(item.config), not_applicable=reason)
            item.config.stash.setdefault(_LEFT_OUT, []).append(test)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the plan, once it is known which tests are run; a worker tells the controller."""
    config = session.config
    left_out = config.stash.get(_LEFT_OUT, [])
    if not left_out and not any(map(is_ours, session.items)):
        return
    import attrs

    from kvtest.conformance import Plan
    from kvtest.errors import KvtestError

    tests = [_planned(item, requirements_of(item)) for item in session.items]
    try:
        catalogue = catalogue_of(config)
    except KvtestError:  # told by the tests
        return
    settings = options.loaded(config).settings
    plan = Plan(tuple(catalogue), (*tests, *left_out), settings.transport, settings.guest_kernel)
    config.stash[_PLAN] = plan
    if notes.is_worker(config):
        notes.leave(config, _FILE, attrs.asdict(plan))


def plan_of(config: pytest.Config) -> Plan:
    """Return the plan of this run; an empty one where there is none."""
    from kvtest.conformance import Plan
    from kvtest.typed import structure

    if _PLAN in config.stash:
        return config.stash[_PLAN]
    told = notes.left(config, _FILE)
    return Plan() if told is None else structure(Plan, told, where=_FILE)


def _planned(item: pytest.Item, names: list[str], *, left_out: str = "", not_applicable: str = "") -> PlannedTest:
    from kvtest.conformance import PlannedTest
    from kvtest.report import stable_id

    return PlannedTest(stable_id(item.nodeid), tuple(names), left_out, not_applicable, kernel_of(item))


def _selector(config: pytest.Config) -> str:
    """Return what has left a test out: the options of the command line, else somebody's plugin."""
    used = {flag: value for name, flag in _SELECTORS.items() if (value := config.getoption(name, None))}
    texts = [f"{flag} {value!r}" if isinstance(value, str) else flag for flag, value in used.items()]
    return " and ".join(texts) or "a plugin or conftest.py"
