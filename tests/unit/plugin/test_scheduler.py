# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvtest.plugin.scheduler import Affinity, TemplateScheduling, units_of


class Node:
    """As much of a worker as a scheduler sees."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.given: list[int] = []
        self.done: list[int] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def scheduling(nodes: list[Node], affinities: list[Affinity], **kwargs: Any) -> TemplateScheduling:
    tests = [f"test{number}" for number in range(len(affinities))]
    collections: Any = {node: kwargs.get(node.gateway.id, tests) for node in nodes}
    config: Any = kwargs.get("config", SimpleNamespace())
    known = dict(zip(tests, affinities, strict=True))
    return TemplateScheduling(config, collections, known, kwargs.get("most", len(nodes)))


def run_to_the_end(scheduler: TemplateScheduling, nodes: list[Node]) -> dict[str, list[int]]:
    """Let workers run tests in turn, as xdist does: the last one only once there is to be no other."""
    while scheduler.has_pending:
        went_on = [step(scheduler, node) for node in nodes]
        assert any(went_on), "nobody can go on"
    return {node.gateway.id: node.done for node in nodes}


def step(scheduler: TemplateScheduling, node: Node) -> bool:
    """Let a worker run a test, if it may."""
    if len(node.given) - len(node.done) < (1 if node.shutting_down else 2):
        return False
    node.done.append(node.given[len(node.done)])
    scheduler.mark_test_complete(node, node.done[-1])
    return True


def test_there_are_no_more_workers_than_there_is_memory_for() -> None:
    nodes = [Node("a"), Node("b"), Node("c"), Node("d")]
    scheduler = scheduling(nodes, [Affinity("x")] * 20, most=2)
    scheduler.schedule()
    assert [node.shutting_down for node in nodes] == [False, False, True, True]
    ran = run_to_the_end(scheduler, nodes)
    assert sorted(test for tests in ran.values() for test in tests) == list(range(20))
    assert ran["c"] == ran["d"] == []


def test_every_test_runs_once_and_every_worker_ends() -> None:
    nodes = [Node("a"), Node("b"), Node("c")]
    scheduler = scheduling(nodes, [Affinity("x")] * 20)
    scheduler.schedule()
    ran = run_to_the_end(scheduler, nodes)
    assert sorted(test for tests in ran.values() for test in tests) == list(range(20))
    assert max(map(len, ran.values())) - min(map(len, ran.values())) <= 2
    assert all(node.shutting_down for node in nodes)
    assert scheduler.tests_finished


def test_fewer_tests_than_workers() -> None:
    nodes = [Node("a"), Node("b"), Node("c")]
    scheduler = scheduling(nodes, [Affinity("x")])
    scheduler.schedule()
    assert all(node.shutting_down for node in nodes)
    assert sorted(test for tests in run_to_the_end(scheduler, nodes).values() for test in tests) == [0]


def test_tests_that_share_a_guest_stay_together() -> None:
    shared, own = Affinity("x", "module"), Affinity("x")
    nodes = [Node("a"), Node("b")]
    scheduler = scheduling(nodes, [own, shared, own, shared, own, shared])
    scheduler.schedule()
    ran = run_to_the_end(scheduler, nodes)
    together = [worker for worker, tests in ran.items() if set(tests) & {1, 3, 5}]
    assert len(together) == 1
    assert [test for test in ran[together[0]] if test in {1, 3, 5}] == [1, 3, 5]


def test_each_worker_keeps_its_template_as_long_as_there_is_work() -> None:
    nodes = [Node("a"), Node("b")]
    scheduler = scheduling(nodes, [Affinity("xy"[number % 2]) for number in range(20)])
    scheduler.schedule()
    ran = run_to_the_end(scheduler, nodes)
    assert ran == {"a": list(range(0, 20, 2)), "b": list(range(1, 20, 2))}


def test_who_has_done_a_template_helps_with_another() -> None:
    nodes = [Node("a"), Node("b")]
    scheduler = scheduling(nodes, [Affinity("rare")] * 2 + [Affinity("common")] * 18)
    scheduler.schedule()
    ran = run_to_the_end(scheduler, nodes)
    assert ran["b"][:2] == [0, 1], "the common one first: it takes longest"
    assert len(ran["b"]) > 5


def test_the_tests_of_a_crashed_worker_go_to_others_but_for_the_one_that_it_crashed_in() -> None:
    nodes = [Node("a"), Node("b")]
    scheduler = scheduling(nodes, [Affinity("x", f"module {number // 4}") for number in range(8)])
    scheduler.schedule()
    step(scheduler, nodes[0])
    assert scheduler.remove_node(nodes[0]) == "test1"
    replacement = Node("c")
    scheduler.add_node(replacement)
    scheduler.add_node_collection(replacement, [])
    scheduler.schedule()
    ran = run_to_the_end(scheduler, [nodes[1], replacement])
    assert sorted(test for tests in ran.values() for test in tests) == [2, 3, 4, 5, 6, 7]


def test_a_test_can_be_run_again() -> None:
    nodes = [Node("a")]
    scheduler = scheduling(nodes, [Affinity("x")] * 4)
    scheduler.schedule()
    step(scheduler, nodes[0])
    scheduler.mark_test_pending("test0")
    assert run_to_the_end(scheduler, nodes)["a"].count(0) == 2


def test_workers_that_have_collected_different_tests_run_none() -> None:
    reports: list[pytest.CollectReport] = []

    def pytest_collectreport(report: pytest.CollectReport) -> None:
        reports.append(report)

    config = SimpleNamespace(hook=SimpleNamespace(pytest_collectreport=pytest_collectreport))
    nodes = [Node("a"), Node("b")]
    scheduler = scheduling(nodes, [Affinity("x")] * 3, config=config, b=["test0", "test2"])
    scheduler.schedule()
    assert [node.given for node in nodes] == [[], []]
    assert "Different tests were collected between a and b" in str(reports[0].longrepr)


def test_what_nobody_knows_of_is_a_unit_of_its_own() -> None:
    units = units_of(["a", "b", "c"], {"b": Affinity("x", "m"), "c": Affinity("x", "m")})
    assert [(unit.template, unit.tests) for unit in units] == [("", [0]), ("x", [1, 2])]
