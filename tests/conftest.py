# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvtest.settings import Settings, load


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The settings of whoever runs the tests, so that an image is built once."""
    return load({}, os.environ, {}, Path(__file__).parents[1]).settings
