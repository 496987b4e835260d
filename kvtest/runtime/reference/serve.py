# SPDX-License-Identifier: Apache-2.0
"""The process that ``start`` leaves running for a pod."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import Future
from pathlib import Path

from kvtest.runtime.reference.machine import Machine
from kvtest.runtime.reference.pod import PodDirectory
from kvtest.runtime.reference.publisher import Publisher
from kvtest.runtime.reference.server import Server
from kvtest.runtime.reference.state import TASK
from kvtest.runtime.reference.tasks import Tasks
from kvtest.vm.machine import VM


def serve(listener: socket.socket, namespace: str, directory: PodDirectory, launched: Future[VM]) -> None:
    """Serve a pod until its last container is gone, or somebody ends us.

    Args:
        listener: What the pod's clients connect to.
        namespace: containerd's namespace.
        directory: The pod's directory.
        launched: The pod's machine.
    """
    finished, finisher = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(finisher, False)
    # A thread that waits for a lock does not learn of a signal that the kernel gave to another thread. Seen: a shim
    # that had got SIGTERM and went on, once in a hundred times.
    signal.set_wakeup_fd(finisher, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    publisher = Publisher(os.environ.get("TTRPC_ADDRESS"), namespace)
    with listener:
        path = Path(listener.getsockname())

        def finish() -> None:
            # Given up before whoever told us to end gets the answer: so they see that we are about to.
            path.unlink(missing_ok=True)
            os.write(finisher, b"\0")

        tasks = Tasks(lambda lost: Machine(launched, directory, lost), publisher, directory.remove, finish)
        Server(listener, tasks.api, f"{TASK}.Task", tasks.methods())
        os.read(finished, 1)
        path.unlink(missing_ok=True)
    tasks.close()
    publisher.close()
    directory.leave()
