# SPDX-License-Identifier: Apache-2.0
"""What a container is to be: the reference shim, changed in its own processes."""

from __future__ import annotations

from pathlib import Path

from tests.saboteurs import containers
from tests.saboteurs.registry import Fault

OPTIONS = ("--runtime", str(Path(__file__).parents[1] / "reference.toml"), "--census-timeout", "2", "--pods", "own")

FAULTS = [
    Fault("test_configuration::test_a_container*direct*", containers.has_no_resource_limits, "assert {"),
    Fault("test_configuration::test_a_container*direct*", containers.may_write_everywhere, "assert '", also=True),
    Fault("test_configuration::test_a_container*direct*", containers.binds_nothing, "assert {", also=True),
    Fault("test_configuration::test_a_process*direct*", containers.executes_programs_only, "assert {"),
    Fault("test_configuration::test_each_process*direct*", containers.has_limits_of_another, "assert ["),
    Fault("test_configuration::test_a_process*direct*", containers.has_terminals_of_one_size, "assert {", also=True),
]
