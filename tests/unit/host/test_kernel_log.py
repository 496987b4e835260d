# SPDX-License-Identifier: Apache-2.0
"""What counts as a complaint of a kernel: records as /dev/kmsg gives them, one for each read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from kvtest.host.kernel_log import KernelLog

# From a lab host whose kernel died, and from one that did not.
OOPS = "1,702,61434589,-;Oops: int3: 0000 [#1] PREEMPT SMP NOPTI"
WARNING = "4,610,9000100,-;WARNING: CPU: 0 PID: 61 at net/vmw_vsock/virtio_transport_common.c:44 f+0x1/0x2 [vsock]"
BUG = "1,3,4,c;BUG: unable to handle page fault for address: ffffffffc0\n SUBSYSTEM=x\n DEVICE=y"
HARMLESS = [
    "6,701,61434000,-;kvm_amd: Nested Virtualization enabled",
    "12,800,99,-;WARNING: CPU: 0 PID: 1 at a/process/that/says/so",  # facility 1: from user space
    "6,9,9,-;virtio_vsock virtio0: warning about nothing",
]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[KernelLog, socket.socket]:
    """A log whose records are the packets of a socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    (tmp_path / "kmsg").touch()
    log = KernelLog(tmp_path / "kmsg")
    os.dup2(theirs.fileno(), log._descriptor)
    theirs.close()
    return log, ours


def test_only_complaints_of_the_kernel_itself_count(log: tuple[KernelLog, socket.socket]) -> None:
    kernel_log, records = log
    assert kernel_log.complaints() == []
    for record in [HARMLESS[0], OOPS, *HARMLESS[1:], WARNING, BUG]:
        records.sendall(record.encode())
    assert kernel_log.complaints() == [
        "Oops: int3: 0000 [#1] PREEMPT SMP NOPTI",
        "WARNING: CPU: 0 PID: 61 at net/vmw_vsock/virtio_transport_common.c:44 f+0x1/0x2 [vsock]",
        "BUG: unable to handle page fault for address: ffffffffc0",
    ]
    assert kernel_log.complaints() == []
    records.close()
    kernel_log.close()


def test_what_was_there_before_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "kmsg"
    file.write_text(f"{OOPS}\n")
    log = KernelLog(file)
    assert log.complaints() == []
    with file.open("a") as stream:
        stream.write(f"{WARNING}\n")
    assert len(log.complaints()) == 1
    log.close()
