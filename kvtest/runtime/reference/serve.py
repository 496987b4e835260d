# SPDX-License-Identifier: Apache-2.0
"""The process that ``start`` leaves running for a pod."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from kvtest.runtime.reference.arguments import Invocation, pod_of, specification
from kvtest.runtime.reference.machine import Machine
from kvtest.runtime.reference.pod import PodDirectory
from kvtest.runtime.reference.publisher import Publisher
from kvtest.runtime.reference.server import Server
from kvtest.runtime.reference.state import TASK
from kvtest.runtime.reference.tasks import Tasks


def serve(invocation: Invocation, listener: socket.socket, directory: PodDirectory) -> None:
    """Serve a pod until its last container is gone, or somebody ends us.

    Args:
        invocation: How ``start`` was run.
        listener: What the pod's clients connect to.
        directory: The pod's directory.
    """
    finished, finisher = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(finisher, False)
    # A thread that waits for a lock does not learn of a signal that the kernel gave to another thread. Seen: a shim
    # that had got SIGTERM and went on, once in a hundred times.
    signal.set_wakeup_fd(finisher, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    publisher = Publisher(os.environ.get("TTRPC_ADDRESS"), invocation.namespace)
    with listener:
        path = Path(listener.getsockname())

        def finish() -> None:
            # Given up before whoever told us to end gets the answer: so they see that we are about to.
            path.unlink(missing_ok=True)
            os.write(finisher, b"\0")

        pod = pod_of(specification(invocation.bundle), invocation.name)
        tasks = Tasks(lambda lost: Machine(pod, directory, lost), publisher, directory.remove, finish)
        Server(listener, tasks.api, f"{TASK}.Task", tasks.methods())
        os.read(finished, 1)
        path.unlink(missing_ok=True)
    tasks.close()
    publisher.close()
    directory.leave()
