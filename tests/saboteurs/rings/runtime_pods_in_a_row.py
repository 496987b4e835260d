# SPDX-License-Identifier: Apache-2.0
"""Many pods, made and destroyed one after another, and something that is kept of each of them."""

from __future__ import annotations

from tests.saboteurs import repetition
from tests.saboteurs.registry import Fault

OPTIONS = ("--pods-in-a-row", "20", "--census-timeout", "2")

FAULTS = [
    Fault("test_pods_in_a_row::test_nothing*direct]", repetition.keeps_descriptors, "kvtest has 15 descriptors more"),
    Fault("test_pods_in_a_row::test_nothing*direct]", repetition.keeps_memory, "MiB more", also=True),
    Fault("test_pods_in_a_row::test_nothing*direct]", repetition.leaves_processes, "left behind", also=True),
    Fault("test_pods_in_a_row::test_nothing*containerd]", repetition.keeps_memory, "MiB more"),
]
