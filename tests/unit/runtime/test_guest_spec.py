# SPDX-License-Identifier: Apache-2.0
"""What becomes of a bundle's configuration in a guest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvtest.errors import RPCError
from kvtest.rpc.status import Code
from kvtest.runtime.reference.guest_spec import process, resources, root_path, specification

ASKED = [
    {"type": "pid"},
    {"type": "network", "path": "/run/netns/pod"},
    {"type": "ipc", "path": "/proc/1/ns/ipc"},
    {"type": "user"},
    {"type": "mount"},
]


@pytest.mark.parametrize(
    ("sysctl", "kinds"),
    [
        ({}, ["pid", "ipc", "mount"]),
        ({"kernel.shmmax": "1"}, ["pid", "ipc", "mount"]),
        ({"net/ipv4/ip_unprivileged_port_start": "0"}, ["pid", "network", "ipc", "mount"]),
        ({"net.ipv4.ip_unprivileged_port_start": "0"}, ["pid", "network", "ipc", "mount"]),
    ],
)
def test_the_network_is_the_pods_unless_a_container_asks_for_settings_of_it(
    sysctl: dict[str, str], kinds: list[str]
) -> None:
    made = specification({"linux": {"namespaces": ASKED, "sysctl": sysctl}}, "name", "/root")
    assert made["Linux"]["Namespaces"] == [{"Type": kind} for kind in kinds]


def test_a_configuration_without_namespaces_has_none() -> None:
    assert specification({}, "name", "/root")["Linux"]["Namespaces"] == []


def made_of(configuration: Any) -> Any:
    return specification(configuration, "name", "/root")


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (made_of, {"mounts": [{"source": "proc"}]}, "the configuration has no mounts[0].destination"),
        (made_of, {"mounts": [{"destination": "/a", "options": "ro"}]}, 'mounts[0].options is "ro", no list'),
        (made_of, {"mounts": {}}, "mounts is {}, no list"),
        (made_of, {"linux": []}, "linux is [], no object"),
        (made_of, {"linux": {"namespaces": [{}]}}, "the configuration has no linux.namespaces[0].type"),
        (made_of, {"linux": {"sysctl": {"a": 1}}}, "linux.sysctl.a is 1, no text"),
        (made_of, {"root": {"readonly": "yes"}}, 'root.readonly is "yes", neither true nor false'),
        (made_of, {"process": {"env": [1]}}, "process.env[0] is 1, no text"),
        (root_path, {"root": {"path": 1}}, "root.path is 1, no text"),
        (process, [], "process is [], no object"),
        (process, {"args": "true"}, 'process.args is "true", no list'),
        (process, {"user": {"uid": -1}}, "process.user.uid is -1, not between 0 and 4294967295"),
        (process, {"user": {"additionalGids": ["1"]}}, 'process.user.additionalGids[0] is "1", no integer'),
        (process, {"rlimits": [{"type": "RLIMIT_CORE"}]}, "the configuration has no process.rlimits[0].hard"),
        (resources, {"cpu": {"quota": "x"}}, 'linux.resources.cpu.quota is "x", no integer'),
        (resources, {"memory": {"limit": True}}, "linux.resources.memory.limit is true, no integer"),
        (resources, {"memory": {"limit": 1 << 63}}, "linux.resources.memory.limit is 9223372036854775808, not between"),
        (resources, {"pids": "x" * 99}, f'linux.resources.pids is "{"x" * 59}…, no object'),
    ],
)
def test_what_is_of_a_wrong_type_is_named(read: Callable[[Any], Any], content: Any, message: str) -> None:
    with pytest.raises(RPCError) as caught:
        read(content)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.message.startswith(message)


def test_nothing_is_what_is_not_said() -> None:
    nothing = {"mounts": None, "process": {"user": None, "consoleSize": None, "rlimits": None}, "linux": None}
    assert made_of(nothing) == made_of({})
