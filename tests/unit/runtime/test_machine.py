# SPDX-License-Identifier: Apache-2.0
"""Finding the virtual machine of a pod."""

from __future__ import annotations

import subprocess
import sys

from kvtest.runtime.machine import cid_of, processes_of
from kvtest.runtime.profile import load


def test_a_machine_is_found_by_its_command_line() -> None:
    machine = load("kata").vm
    assert machine is not None
    script = "print(flush=True); input()"
    command = [
        sys.executable,
        "-c",
        script,
        "/usr/bin/qemu-system-x86_64",
        "-name",
        "sandbox-kvtest-one,debug-threads=on",
        "-device",
        "vhost-vsock-pci,guest-cid=4711",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert processes_of(machine, "kvtest-one") == [process.pid]
        assert processes_of(machine, "kvtest-two") == []
        assert cid_of(load("kata"), "kvtest-one") == 4711
        assert cid_of(load("kata"), "kvtest-two") is None  # there is no such machine
        assert cid_of(load("reference"), "kvtest-one") is None  # its device is our own
        assert cid_of(load("runc"), "kvtest-one") is None
        process.communicate(b"\n")
    assert processes_of(machine, "kvtest-one") == []
