# SPDX-License-Identifier: Apache-2.0
"""Which worker runs which test: those that share a guest on one, and each template with as few as there are others.

This is a scheduler of pytest-xdist (``xdist.scheduler.protocol``). A worker runs a test only once it knows the next
one, or that there is none; so each is given work as long as it has fewer than two tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pytest
from attrs import define, field
from xdist.report import report_collection_diff

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

_ENOUGH = 2


class Affinity(NamedTuple):
    """What a test has in common with others.

    Args:
        template: What its guest is a clone of; empty if it has none.
        group: Who shares its guest; empty if nobody does.
    """

    template: str
    group: str = ""


@define
class _Unit:
    """Tests that stay together.

    Args:
        template: What their guests are clones of.
        tests: Their indices in the collection.
    """

    template: str
    tests: list[int] = field(factory=list)


class TemplateScheduling:
    """Gives workers whole units, of the template that they have worked with if there are any left.

    Args:
        config: pytest's configuration.
        collections: What each worker has collected.
        affinities: What is known of tests, by ID.
        most: How many workers there is memory for; the others end at once.
    """

    def __init__(
        self,
        config: pytest.Config,
        collections: Mapping[WorkerController, Sequence[str]],
        affinities: Mapping[str, Affinity],
        most: int,
    ) -> None:
        self._most = most
        self._config = config
        self._collections = dict(collections)
        self._pending: dict[WorkerController, list[int]] = {node: [] for node in collections}
        self._templates: dict[WorkerController, str] = {}
        self._affinities = affinities
        self._collection: list[str] = list(next(iter(self._collections.values())))
        self._units = units_of(self._collection, affinities)
        self._started = False

    # --- What xdist asks

    @property
    def nodes(self) -> list[WorkerController]:
        """The workers."""
        return list(self._pending)

    @property
    def collection_is_completed(self) -> bool:
        """Whether all workers have collected: they had before this one was made."""
        return True

    @property
    def tests_finished(self) -> bool:
        """Whether nothing is left to be given to a worker, nor to be waited for but each one's last test."""
        return not self._units and all(len(pending) < _ENOUGH for pending in self._pending.values())

    @property
    def has_pending(self) -> bool:
        """Whether a test has not ended."""
        return bool(self._units) or any(self._pending.values())

    # --- What xdist tells

    def add_node(self, node: WorkerController) -> None:
        """Take a worker that came in place of one that crashed."""
        self._pending[node] = []

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        """Take what that worker has collected."""
        self._collections[node] = collection

    def schedule(self) -> None:
        """Give every worker work, if all have collected the same."""
        if not self._started and not self._same_collections():
            return
        if not self._started:
            self._started = True
            for node in self.nodes[self._most :]:
                node.shutdown()
        for node in self.nodes:
            self._provide(node)

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """Take the end of a test."""
        self._pending[node].remove(item_index)
        self._provide(node)

    def mark_test_pending(self, item: str) -> None:
        """Run a test once more, next."""
        affinity = self._affinities.get(item, Affinity(""))
        self._units.insert(0, _Unit(affinity.template, [self._collection.index(item)]))
        for node in self.nodes:
            self._provide(node)

    def remove_pending_tests_from_node(self, node: WorkerController, indices: Sequence[int]) -> None:
        """Refuse: tests are never taken away from a worker, so none are given back."""
        raise NotImplementedError

    def remove_node(self, node: WorkerController) -> str | None:
        """Take the end of a worker; return the test that it crashed in, if it did."""
        pending = self._pending.pop(node)
        self._templates.pop(node, None)
        if not pending:
            return None
        crashed: str = self._collection[pending.pop(0)]
        if pending:
            affinity = self._affinities.get(self._collection[pending[0]], Affinity(""))
            self._units.insert(0, _Unit(affinity.template, pending))
        for other in self.nodes:
            self._provide(other)
        return crashed

    # --- Choice

    def _provide(self, node: WorkerController) -> None:
        if node.shutting_down:
            return
        while self._units and len(self._pending[node]) < _ENOUGH:
            unit = self._choose(node)
            self._units.remove(unit)
            self._templates[node] = unit.template
            self._pending[node] += unit.tests
            node.send_runtest_some(unit.tests)
        if not self._units:
            node.shutdown()

    def _choose(self, node: WorkerController) -> _Unit:
        """Return a unit of the same template as before; else of one that few work with, and of which most is left."""
        used = self._templates.get(node)
        for unit in self._units:
            if unit.template == used:
                return unit
        others = [template for other, template in self._templates.items() if other is not node]
        left: dict[str, int] = {}
        for unit in self._units:
            left[unit.template] = left.get(unit.template, 0) + len(unit.tests)
        template = min(left, key=lambda template: (others.count(template), -left[template]))
        return next(unit for unit in self._units if unit.template == template)

    def _same_collections(self) -> bool:
        (first, collection), *others = self._collections.items()
        same = True
        for node, other in others:
            difference = report_collection_diff(collection, other, first.gateway.id, node.gateway.id)
            if difference:
                same = False
                report = pytest.CollectReport(nodeid=node.gateway.id, outcome="failed", longrepr=difference, result=[])
                self._config.hook.pytest_collectreport(report=report)
        return same


def units_of(collection: Sequence[str], affinities: Mapping[str, Affinity]) -> list[_Unit]:
    """Return the units of a collection, in the order of their first tests.

    Args:
        collection: IDs of tests.
        affinities: What is known of some.
    """
    units: dict[object, _Unit] = {}
    for index, test in enumerate(collection):
        affinity = affinities.get(test, Affinity(""))
        key = affinity if affinity.group else index
        units.setdefault(key, _Unit(affinity.template)).tests.append(index)
    return list(units.values())
