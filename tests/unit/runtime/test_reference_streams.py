# SPDX-License-Identifier: Apache-2.0
"""The descriptors of what carries a process's streams."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvtest.runtime.reference.streams import Input


@pytest.mark.parametrize("begun", [False, True])
def test_the_end_of_an_input_that_has_ended_reaches_no_other_descriptor(tmp_path: Path, begun: bool) -> None:
    os.mkfifo(tmp_path / "in")
    agent: Any = SimpleNamespace(call=lambda *arguments, **names: None)
    before = set(threading.enumerate())
    ended = Input(str(tmp_path / "in"), container_id="one")
    if begun:
        ended.begin(agent)
    threads = set(threading.enumerate()) - before
    ended.close()
    for thread in threads:
        thread.join(5.0)
    others = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
    try:
        assert ended._ending in others
        ended.end()
        ended.close()
        for other in others:
            with pytest.raises(BlockingIOError):  # nobody has written to it, and it is open
                os.eventfd_read(other)
    finally:
        for other in others:
            os.close(other)
