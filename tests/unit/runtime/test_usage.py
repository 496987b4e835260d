# SPDX-License-Identifier: Apache-2.0
"""What shims tell that containers use."""

from __future__ import annotations

from typing import Any

import pytest

from kvtest.errors import RPCError
from kvtest.rpc.api import load
from kvtest.runtime.usage import Usage, decoded

VERSIONS: list[tuple[str, dict[str, Any]]] = [
    (
        "io.containerd.cgroups.v1.Metrics",
        {"pids": {"current": 3}, "memory": {"usage": {"usage": 4096}}, "cpu": {"usage": {"total": 5000}}},
    ),
    (
        "io.containerd.cgroups.v2.Metrics",
        {"pids": {"current": 3}, "memory": {"usage": 4096}, "cpu": {"usage_usec": 5}},
    ),
]


@pytest.mark.parametrize("prefix", ["", "type.googleapis.com/"])
@pytest.mark.parametrize(("kind", "fields"), VERSIONS)
def test_either_version_of_control_groups_is_understood(kind: str, fields: dict[str, Any], prefix: str) -> None:
    message = load("task").message(kind)(**fields).SerializeToString()
    assert decoded(prefix + kind, message) == Usage(processes=3, memory=4096, cpu=5000)


def test_what_is_told_in_other_terms_is_an_error_that_says_so() -> None:
    with pytest.raises(RPCError, match=r"told as 'example.Metrics', not as io.containerd.cgroups.v1.Metrics or"):
        decoded("example.Metrics", b"")
