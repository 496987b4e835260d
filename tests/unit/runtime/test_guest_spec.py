# SPDX-License-Identifier: Apache-2.0
"""What becomes of a bundle's configuration in a guest."""

from __future__ import annotations

import pytest

from kvtest.runtime.reference.guest_spec import specification

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
