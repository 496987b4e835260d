# SPDX-License-Identifier: Apache-2.0
"""Processes that use processor time, and those that do not."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import NoReturn

import pytest

from kvtest.errors import DeadlineExceededError, HostError
from kvtest.ownership import OwnedProcess
from kvtest.runtime.reference import standstill


def end_of(process: OwnedProcess) -> NoReturn:
    process.wait(10.0)
    raise HostError("it has ended")


def test_only_a_process_that_stands_still_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standstill, "_LOOK_SECONDS", 0.05)
    with OwnedProcess(["sh", "-c", "while :; do :; done"], output=tmp_path / "output") as process:
        with pytest.raises(DeadlineExceededError), standstill.ended_at_standstill(process, 0.3):
            process.wait(1.0)
        process.kill(signal.SIGSTOP)
        hangs = pytest.raises(HostError, match=r"hangs: it has used no processor time for 0\.3 s")
        with hangs, standstill.ended_at_standstill(process, 0.3):
            end_of(process)
        assert process.status == -signal.SIGKILL
