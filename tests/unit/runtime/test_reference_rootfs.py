# SPDX-License-Identifier: Apache-2.0
"""Root file systems that the reference shim cannot pack."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvtest.errors import HostError
from kvtest.runtime.reference import rootfs


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_root_that_is_no_directory_is_told_and_not_made(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match=f"the container's root file system {tmp_path / name} is not there, or no dir"):
        rootfs.pack(tmp_path / name, [], tmp_path / "image")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
