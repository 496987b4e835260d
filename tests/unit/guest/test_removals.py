# SPDX-License-Identifier: Apache-2.0
"""What the agent removes: all of it, whatever a container has made of it, and without holding up anybody."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvtest.guest.agent.removals import Removals
from kvtest.guest.reactor import Reactor

MANY = 1000  # more than are removed in one turn
DEEP = 3000  # deeper than Python's recursion goes, and than a path may be


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor.close()


def deep_tree(path: Path) -> None:
    path.mkdir()
    place = os.open(path, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("below", dir_fd=place)
        inner = os.open("below", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)


def test_a_small_directory_is_gone_at_once(reactor: Reactor, tmp_path: Path) -> None:
    removals = Removals(reactor, str(tmp_path / "removed"))
    told: list[str] = []
    (tmp_path / "one" / "below").mkdir(parents=True)
    (tmp_path / "one" / "file").touch()
    removals.add(str(tmp_path / "one"), lambda: told.append("gone"))
    removals.add(str(tmp_path / "absent"), lambda: told.append("never there"))
    assert told == ["gone", "never there"]
    assert [path.name for path in tmp_path.rglob("*")] == ["removed"]


def test_turns_pass_while_much_is_removed_and_its_name_is_free(reactor: Reactor, tmp_path: Path) -> None:
    removals = Removals(reactor, str(tmp_path / "removed"))
    told: list[str] = []
    much = tmp_path / "much"
    deep_tree(much)
    for number in range(MANY):
        (much / str(number)).touch()
    removals.add(str(much), lambda: told.append("gone"))
    much.mkdir()
    assert not told
    turns = 0
    while not told:
        reactor.turn(10)
        turns += 1
    assert turns > 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["much", "removed"]


def test_no_link_is_followed(reactor: Reactor, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "link").symlink_to(tmp_path / "other")
    Removals(reactor, str(tmp_path / "removed")).add(str(tmp_path / "one"))
    assert (tmp_path / "other" / "file").exists()
    assert not (tmp_path / "one").exists()


def test_what_is_left_of_an_earlier_process_goes(reactor: Reactor, tmp_path: Path) -> None:
    directory = tmp_path / "removed"
    (directory / "7" / "below").mkdir(parents=True)
    removals = Removals(reactor, str(directory))
    (tmp_path / "one").mkdir()
    removals.add(str(tmp_path / "one"))
    assert [path.name for path in tmp_path.rglob("*")] == ["removed"]
