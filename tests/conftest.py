# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvtest.settings import Settings, load

_LONGEST = ("test_rings.py", "test_lab.py", "test_image.py", "test_clone.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        help="Run the tests marked thorough too: they take minutes, and most check in more cases what others do in one",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "thorough: run only with --thorough")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Files that take minutes come first: at the end one worker would do them, and the other nothing.
    items.sort(key=lambda item: next((place for place, file in enumerate(_LONGEST) if item.path.name == file), 99))
    if config.getoption("thorough"):
        return
    left_out = [item for item in items if item.get_closest_marker("thorough") is not None]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item.get_closest_marker("thorough") is None]


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether this run may take long."""
    return bool(request.config.getoption("thorough"))


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The settings of whoever runs the tests, so that an image is built once."""
    return load({}, os.environ, {}, Path(__file__).parents[1]).settings
