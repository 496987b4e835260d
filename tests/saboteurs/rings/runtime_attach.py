# SPDX-License-Identifier: Apache-2.0
"""Clients that come and go beside others: the reference shim, changed in its own processes."""

from __future__ import annotations

from pathlib import Path

from tests.saboteurs import containers, machines
from tests.saboteurs.registry import Fault

OPTIONS = ("--runtime", str(Path(__file__).parents[1] / "reference.toml"), "--census-timeout", "2", "--pods", "own")

FAULTS = [
    Fault("test_attach::test_a_client_that_comes*direct*", machines.ends_with_its_reader, r"-4\n'"),
    Fault("test_attach::test_the_streams*", containers.tells_no_streams, "assert ["),
    Fault("test_attach::test_an_input*direct*", containers.ends_the_input_with_its_client, "Status.STOPPED"),
    Fault("test_attach::test_an_input*direct*", containers.ends_every_input, "Status.STOPPED", also=True),
    Fault("test_attach::test_output_that*direct*", machines.ends_when_all_is_read, "the event TaskExit"),
    Fault("test_attach::test_a_client_that_van*direct*", machines.waits_for_who_has_gone, "has kept 0 descriptors"),
    Fault("test_attach::test_processes*direct*", machines.keeps_a_descriptor, "has kept 4 descriptors"),
    Fault("test_attach::test_containers*direct*", machines.keeps_a_descriptor_of_containers, "descriptors and"),
    # Whoever connects next, or asks.
    Fault("test_attach::test_a_shim*direct*", machines.ends_without_descriptors, "onnection"),
    Fault("test_attach::test_an_agent*direct*", machines.serves_one_client, "to take a connection"),
]
