# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from kvtest.errors import HostError
from kvtest.host.memory import available_memory, require_memory


def test_too_little_memory_is_told() -> None:
    require_memory(1, "a lab host")
    more = (available_memory() >> 20) * 2
    with pytest.raises(HostError, match=rf"a lab host takes {more} MiB of memory, and \d+ MiB are available"):
        require_memory(more, "a lab host")
