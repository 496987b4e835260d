# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from kvtest.errors import UsageError
from kvtest.rpc import api
from kvtest.runtime.agent_versions import behaviour_of

OLD, NEW = "/run/kata-containers", "/run/kata-containers/shared/containers"


@pytest.mark.parametrize(
    ("version", "spoken", "prefix", "signalled"),
    [
        ("2.1.0", "agent-2.1", OLD, 0),
        ("v3.3.0-rc0", "agent-2.1", OLD, 0),
        ("3.4.0", "agent-3.4", OLD, 0),
        ("3.31.9", "agent-3.30", OLD, 0),
        ("3.32.0", "agent-3.30", OLD, 128),
        ("4.0.0", "agent-3.30", NEW, 128),
        ("4.1.0-alpha1", "agent-3.30", NEW, 128),
        ("10.0", "agent-3.30", NEW, 128),
    ],
)
def test_a_version_behaves_as_the_last_change_before_it(version: str, spoken: str, prefix: str, signalled: int) -> None:
    behaviour = behaviour_of(version)
    assert (behaviour.api, behaviour.copy_prefix, behaviour.signalled) == (spoken, prefix, signalled)
    api.load(behaviour.api)


@pytest.mark.parametrize("version", ["2.0.4", "1.13.0"])
def test_a_version_that_is_too_old_is_refused(version: str) -> None:
    with pytest.raises(UsageError, match=f"version {version}, the oldest that is known is 2.1.0"):
        behaviour_of(version)


def test_what_is_no_version_is_refused() -> None:
    with pytest.raises(UsageError, match="'unknown' is no version of an agent"):
        behaviour_of("unknown")


def test_fields_are_there_from_their_version_on() -> None:
    assert "stdin_port" not in api.load("agent-2.1").message("grpc.CreateContainerRequest").DESCRIPTOR.fields_by_name
    assert "stdin_port" in api.load("agent-3.4").message("grpc.CreateContainerRequest").DESCRIPTOR.fields_by_name
    assert "shared" not in api.load("agent-3.4").message("grpc.Storage").DESCRIPTOR.fields_by_name
    assert "shared" in api.load("agent-3.30").message("grpc.Storage").DESCRIPTOR.fields_by_name
