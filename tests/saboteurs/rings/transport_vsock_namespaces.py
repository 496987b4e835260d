# SPDX-License-Identifier: Apache-2.0
"""The network namespaces of a lab host whose kernel has them for vsock."""

from __future__ import annotations

from tests.saboteurs import kernel_vsock
from tests.saboteurs.registry import Fault

EVERY_TEST = True
HOST = "lab:7.2"
FAULTS = [
    Fault(
        "test_vsock_namespaces::test_a_namespace_shares*", kernel_vsock.keeps_namespaces_apart, "'local' == 'global'"
    ),
    Fault("test_vsock_namespaces::test_a_namespace_of*", kernel_vsock.opens_everything_outside, "DID NOT RAISE"),
    Fault("test_vsock_namespaces::test_no_guest*", kernel_vsock.opens_everything_outside, "'connected'"),
    Fault("test_vsock_namespaces::test_the_mode*", kernel_vsock.takes_another_mode, "'taken'"),
]
