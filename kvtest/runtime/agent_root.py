# SPDX-License-Identifier: Apache-2.0
"""A root file system for containers in a guest that has none for us: copied into it by its agent.

Only regular files, which CopyFile takes of every version of the API: the commands are scripts whose interpreter is
busybox, and a directory is made by a file in it.
"""

from __future__ import annotations

from attrs import evolve

from kvtest.runtime.agent import AgentEndpoint
from kvtest.runtime.rootfs import COMMANDS, DIRECTORIES, GROUP, PASSWD, find_busybox

_NAME = "kvtest-root"
_SCRIPT = b"#!/bin/busybox\n"
_MORE_COMMANDS = ("md5sum", "stat", "pwd", "sort")
_EXECUTABLE = 0o100755


def provide_root(endpoint: AgentEndpoint) -> AgentEndpoint:
    """Copy a root file system into the guest of an agent, and return the endpoint that makes containers with it.

    Args:
        endpoint: The agent, in its version.

    Raises:
        MissingToolError: There is no busybox that needs no libraries.
        RPCError: The agent does not take a file.
    """
    busybox = find_busybox().read_bytes()
    with endpoint.connect() as agent:
        root = f"{agent.behaviour.copy_prefix}/{_NAME}"
        agent.copy_file(f"{root}/bin/busybox", busybox, mode=_EXECUTABLE)
        for name in (*COMMANDS, *_MORE_COMMANDS):
            agent.copy_file(f"{root}/bin/{name}", _SCRIPT, mode=_EXECUTABLE)
        for name in DIRECTORIES:
            agent.copy_file(f"{root}/{name}/.kvtest", b"")
        agent.copy_file(f"{root}/etc/passwd", PASSWD.encode())
        agent.copy_file(f"{root}/etc/group", GROUP.encode())
    return evolve(endpoint, container_root=root)
