# SPDX-License-Identifier: Apache-2.0
"""The life of one container by the fewest calls of its shim that do it: what drives shims is measured against this."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from kvtest.rpc import api, frames
from kvtest.rpc.envelope import Request, Response
from kvtest.runtime import spec
from kvtest.runtime.installation import Installation

_TASK = "containerd.task.v2"


class BareShim:
    """A shim and a socket: no deadlines, no events, no streams, no looking after anything.

    Args:
        installation: The runtime.
        directory: An empty directory.
        rootfs: The root file system, which stays as it is.
        name: ID of the container.
    """

    def __init__(self, installation: Installation, directory: Path, rootfs: Path, name: str) -> None:
        self._installation = installation
        self._api = api.load("task")
        self._name = name
        self._stream = 1
        self._bundle = directory / "bundle"
        for made in ("bundle/rootfs", "upper", "work"):
            (directory / made).mkdir(parents=True)
        options = [f"lowerdir={rootfs}", f"upperdir={directory / 'upper'}", f"workdir={directory / 'work'}"]
        self._mount = {"type": "overlay", "source": "overlay", "options": options}

    def live(self) -> None:
        """Start the shim, have a container run ``true``, and wait for the end of both.

        Raises:
            RuntimeError: A call failed, or the container did.
        """
        bundle = self._bundle
        (bundle / "config.json").write_text(json.dumps(spec.container(self._name, self._name, ["true"], {})))
        (bundle / "log").touch()
        command: list[str | Path] = [
            self._installation.shim,
            "-namespace",
            "kvtest",
            "-address",
            bundle,
            "-id",
            self._name,
            "start",
        ]
        environment = {**os.environ, "GOMAXPROCS": "2"}
        started = subprocess.run(
            command, cwd=bundle, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as shim:
            shim.connect(started.stdout.decode().strip().removeprefix("unix://"))
            self._call(shim, "Create", "CreateTask", id=self._name, bundle=str(bundle), rootfs=[self._mount])
            self._call(shim, "Start", "Start", id=self._name)
            if self._call(shim, "Wait", "Wait", id=self._name).exit_status != 0:
                raise RuntimeError("the container failed")
            self._call(shim, "Delete", "Delete", id=self._name)
            self._call(shim, "Shutdown", "Shutdown", id=self._name)
            while shim.recv(1 << 12):
                pass

    def _call(self, shim: socket.socket, method: str, message: str, **fields: Any) -> Any:
        payload = self._api.message(f"{_TASK}.{message}Request")(**fields).SerializeToString()
        request = Request(f"{_TASK}.Task", method, payload).encode()
        shim.sendall(frames.encode(self._stream, frames.REQUEST, request))
        self._stream += 2
        parser = frames.Parser(frames.RESPONSE)
        while data := shim.recv(1 << 16):
            for frame in parser.feed(data):
                response = Response.decode(frame.data or b"")
                if response.code != 0:
                    raise RuntimeError(f"{method}: {response.message}")
                if method in ("Wait", "Delete"):
                    return self._api.message(f"{_TASK}.{message}Response").FromString(response.payload)
                return None
        if method != "Shutdown":  # which a shim may not have the time to answer
            raise RuntimeError(f"{method}: the shim has ended")
        return None
