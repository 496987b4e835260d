# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kvtest import deadline
from kvtest.deadline import SLOWNESS, Deadline


def test_the_earlier_of_two() -> None:
    assert 0 < (Deadline(1000).within(10).remaining or 0) <= 10
    assert 0 < (Deadline(10).within(1000).remaining or 0) <= 10
    assert 0 < (Deadline(None).within(10).remaining or 0) <= 10
    assert Deadline(-1).within(10).expired


def test_on_an_emulated_machine_all_of_them_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "_FACTOR", 4.0)
    assert 300 < (Deadline(100).remaining or 0) <= 400
    assert 30 < (Deadline(1000).within(10).remaining or 0) <= 40
    assert 30 < (Deadline(10).within(1000).remaining or 0) <= 40  # what is left already is as much more
    assert Deadline(None).remaining is None


def test_a_process_is_told_how_slow_its_machine_is() -> None:
    program = "from kvtest.deadline import Deadline, slowness; print(Deadline(100).remaining > 300, slowness())"
    environment = {**os.environ, SLOWNESS: "4"}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == "True each came 4 times later, as this machine is emulated\n"
