# SPDX-License-Identifier: Apache-2.0
"""``delete``: remove what is left of a container whose shim is gone, or will not answer."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import time
from pathlib import Path

from kvtest.errors import ShimError
from kvtest.rpc.envelope import bytes_field, varint_field
from kvtest.runtime.reference.arguments import Invocation, pod_of, specification
from kvtest.runtime.reference.mounts import unmount
from kvtest.runtime.reference.pod import PodDirectory
from kvtest.runtime.reference.start import answers
from kvtest.runtime.reference.state import NAME, STATE, TASK

_KILLED = 128 + signal.SIGKILL
_PATIENCE = 4.0


def delete(invocation: Invocation) -> bytes:
    """Return the encoded ``DeleteResponse``; harmless where nothing is left.

    containerd 1.6 runs this after an ordinary deletion too, and the pod may go on with other containers then.
    """
    bundle = invocation.bundle
    try:
        pod = pod_of(specification(bundle), invocation.name)
    except ShimError:
        pod = invocation.name
    directory, path = PodDirectory.of(invocation, pod), invocation.pod_socket(pod)
    pid = 0
    with directory.locked() as there:
        if there:
            pid = directory.machine
            if not _goes_on(directory, path, invocation.name):
                # A shim that is ending by itself has given its socket up.
                directory.end(ending=not path.exists())
    unmount(bundle / "rootfs")
    with contextlib.suppress(OSError):
        if not answers(path):
            path.unlink()
    shutil.rmtree(bundle / STATE, ignore_errors=True)
    seconds, nanos = divmod(time.time_ns(), 10**9)
    # Written by hand (containerd, api/runtime/task/v2/shim.proto): containerd runs this at each container's end, and a
    # protobuf library would take longer to load than all the rest.
    exited_at = varint_field(1, seconds) + varint_field(2, nanos)
    return varint_field(1, pid) + varint_field(2, _KILLED) + bytes_field(3, exited_at)


def _goes_on(directory: PodDirectory, path: Path, name: str) -> bool:
    """See that a container is not its pod's any more, and return whether the pod goes on without it.

    It does if its shim serves others and does not have this one, or lets go of it.
    """
    containers = directory.containers
    if containers <= {name} or not directory.served:
        return False
    if name in containers and not _given_up(path, name):
        return False
    directory.remove(name)
    return True


def _given_up(path: Path, name: str) -> bool:
    """Have a shim that serves others end a container and delete it; return whether it has, as one that hangs has not.

    Nobody can have asked it in order: containerd has lost it from sight, as after a creation that took too long.
    """
    from kvtest.deadline import Deadline
    from kvtest.errors import DeadlineExceededError, RPCError
    from kvtest.rpc.api import Service, load
    from kvtest.rpc.client import Client
    from kvtest.rpc.status import Code

    deadline = Deadline(_PATIENCE)
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.settimeout(_PATIENCE)
        stream.connect(str(path))
    except OSError:
        stream.close()
        return False
    client = Client(stream, NAME)
    service, api = Service(client, load("task"), f"{TASK}.Task"), load("task")
    try:
        for method, request, fields in (
            ("Kill", "KillRequest", {"signal": signal.SIGKILL, "all": True}),
            ("Wait", "WaitRequest", {}),
            ("Delete", "DeleteRequest", {}),
        ):
            try:
                service.call(method, api.message(f"{TASK}.{request}")(id=name, **fields), deadline=deadline)
            except RPCError as error:
                if error.code != Code.NOT_FOUND:  # it has ended, or there is none of that name
                    return False
    except DeadlineExceededError:
        return False
    finally:
        client.close()
    return True
