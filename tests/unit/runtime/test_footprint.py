# SPDX-License-Identifier: Apache-2.0
"""What a process has of descriptors and memory."""

from __future__ import annotations

import mmap
import os

import pytest

from kvtest.runtime.footprint import Footprint


def test_descriptors_are_counted() -> None:
    before = Footprint.of(os.getpid())
    with open(os.devnull, "rb"), open(os.devnull, "rb"):
        assert Footprint.of(os.getpid()).descriptors - before.descriptors == 2
    assert Footprint.of(os.getpid()).descriptors == before.descriptors


def test_memory_of_its_own_is_measured() -> None:
    """Pages straight from the kernel: what the allocator has kept from before would hide them."""
    size = 16 << 20
    before = Footprint.of(os.getpid())
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as kept:
        for page in range(0, size, mmap.PAGESIZE):
            kept[page] = 1
        grown = Footprint.of(os.getpid()).memory - before.memory
    assert size * 0.9 < grown < size * 1.5


def test_a_process_that_is_not_there_has_none() -> None:
    with pytest.raises(FileNotFoundError):
        Footprint.of(1 << 30)
