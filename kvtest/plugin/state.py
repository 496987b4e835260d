# SPDX-License-Identifier: Apache-2.0
"""Where the session of this process is kept, apart from the session: whoever only looks imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kvtest.plugin.session import Session

SESSION = pytest.StashKey["Session"]()


def existing_session(config: pytest.Config) -> Session | None:
    """Return the session of this process if a test has asked for it."""
    return config.stash.get(SESSION, None)
