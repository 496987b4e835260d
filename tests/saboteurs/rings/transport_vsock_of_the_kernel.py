# SPDX-License-Identifier: Apache-2.0
"""The vhost-vsock of a lab host's kernel, with something wrong between it and the tests."""

from __future__ import annotations

from tests.saboteurs import kernel_vsock
from tests.saboteurs.registry import Fault

EVERY_TEST = True
HOST = "lab"
FAULTS = [
    Fault(
        "test_vsock_of_the_kernel::test_an_address_is_refused*",
        kernel_vsock.gives_a_second_guest_another_address,
        "DID NOT RAISE",
    ),
    Fault("test_vsock_of_the_kernel::test_an_address_is_free*", kernel_vsock.holds_on_to_an_address, "another guest's"),
    Fault(
        "test_vsock_of_the_kernel::test_an_address_is_free*",
        kernel_vsock.goes_on_with_the_next_guest,
        "DID NOT RAISE",
        also=True,
    ),
    Fault(
        "test_vsock_of_the_kernel::test_the_module*",
        kernel_vsock.says_that_the_module_is_gone,
        "the module was removed while a guest used it",
    ),
    Fault(
        "test_vsock_of_the_kernel::test_the_module*",
        kernel_vsock.loads_no_module,
        "the module was loaded, and there is no device",
        also=True,
    ),
]
