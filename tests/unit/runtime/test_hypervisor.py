# SPDX-License-Identifier: Apache-2.0
"""Virtual machines that a profile does not find."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvtest.runtime.hypervisor import other_than_found
from kvtest.runtime.profile import load

SEVERAL = "[hypervisor.qemu]\n[hypervisor.dragonball]\n[runtime]\nhypervisor_name = "


@pytest.mark.parametrize(
    ("content", "other"),
    [
        ("[hypervisor.qemu]\npath = '/q'", None),
        ("[hypervisor.clh]\npath = '/c'", "clh"),
        (f"{SEVERAL}'dragonball'", "dragonball"),
        (f"{SEVERAL}'qemu'", None),
        ("", None),
        ("no TOML", None),
        ("hypervisor = 3\nruntime = 4", None),
    ],
)
def test_another_hypervisor_is_told(tmp_path: Path, content: str, other: str | None) -> None:
    path = tmp_path / "configuration.toml"
    path.write_text(content)
    said = other_than_found(load("kata"), path)
    assert (said is not None) == (other is not None)
    assert f"{path} has the hypervisor {other}" in (said or f"{path} has the hypervisor None")


def test_a_runtime_without_machines_has_no_other() -> None:
    assert other_than_found(load("runc"), None) is None
    assert other_than_found(load("kata"), None) is None
