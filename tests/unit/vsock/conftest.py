# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvtest.vsock import HybridVsock
from kvtest.vsock.device import VsockDevice

from .front_end import GUEST_CID, FrontEnd


@pytest.fixture
def device() -> Iterator[VsockDevice]:
    with tempfile.TemporaryDirectory(prefix="kvtest-") as directory:
        base = Path(directory)
        with VsockDevice(base / "vhost", base / "vsock", GUEST_CID) as device:
            yield device


@pytest.fixture
def hybrid(device: VsockDevice) -> HybridVsock:
    return HybridVsock(device.hybrid_path)


@pytest.fixture
def front_end(device: VsockDevice) -> Iterator[FrontEnd]:
    with contextlib.closing(FrontEnd(device.vhost_path)) as front_end:
        yield front_end
