# SPDX-License-Identifier: Apache-2.0
"""What is imported only when it is needed: every process of the reference shim waits for its imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kvtest.runtime

HEAVY = ("kvtest.harness", "kvtest.vm", "kvtest.image", "kvtest.census", "kvtest.runtime.under_test")


@pytest.mark.parametrize("action", ["start", "delete"])
def test_a_short_action_of_the_shim_loads_no_machines(action: str) -> None:
    script = f"import sys, kvtest.runtime.reference.main, kvtest.runtime.reference.{action}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert f"kvtest.runtime.reference.{action}" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_every_public_name_can_be_had() -> None:
    for name in kvtest.runtime.__all__:
        assert getattr(kvtest.runtime, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Podd'"):
        _ = kvtest.runtime.Podd
