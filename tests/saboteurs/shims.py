# SPDX-License-Identifier: Apache-2.0
"""Ways to break a shim as a program: its streams, its events, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kvtest.rpc.envelope import Request, Response
from kvtest.rpc.server import Call
from kvtest.runtime import shim, stdio
from kvtest.runtime.direct import DirectBackend
from kvtest.runtime.sink import EventService
from kvtest.runtime.tasks import Streams
from tests.saboteurs.registry import breaks
from tests.saboteurs.wire import Fault, asked, between
from tests.saboteurs.wrapper import with_wrapped_shim

_STATE = "/run/containerd/runc/kvtest"
_CGROUPS = Path("/sys/fs/cgroup")


# --- Wrappers around the shim


def _on_delete(script: str) -> contextlib.AbstractContextManager[None]:
    return with_wrapped_shim(f'if [ "$COMMAND" = delete ]; then\n{script}\nfi')


@breaks("RUNTIME-START-001")
@contextlib.contextmanager
def tells_an_address_of_nobody() -> Iterator[None]:
    """The address that start prints is one at which nobody listens."""
    with with_wrapped_shim('[ "$COMMAND" = start ] && { printf unix:///run/nobody-listens-here; exit 0; }'):
        yield


@breaks("RUNTIME-CLEANUP-001", "RUNTIME-RECOVER-002")
@contextlib.contextmanager
def deletes_nothing() -> Iterator[None]:
    """Delete leaves the container running."""
    with _on_delete(r"printf '\010\001\020\211\001'; exit 0"):
        yield


@breaks("RUNTIME-CLEANUP-001")
@contextlib.contextmanager
def hangs_in_delete() -> Iterator[None]:
    """Delete does not come to an end."""
    with _on_delete("exec sleep 1000"):
        yield


@breaks("RUNTIME-CLEANUP-001")
@contextlib.contextmanager
def leaves_a_mount() -> Iterator[None]:
    """Delete leaves something mounted."""
    with _on_delete('$SHIM "$@"; mount -t tmpfs left rootfs; exit 0'):
        yield


@breaks("RUNTIME-CLEANUP-001")
@contextlib.contextmanager
def leaves_a_cgroup() -> Iterator[None]:
    """Delete leaves a cgroup."""
    with _on_delete(f'$SHIM "$@"; mkdir {_pids_hierarchy()}/$ID; exit 0'):
        yield


@breaks("RUNTIME-CLEANUP-001", "RUNTIME-CLEANUP-005")
@contextlib.contextmanager
def leaves_the_state() -> Iterator[None]:
    """Delete leaves the state of the container."""
    with _on_delete(f'$SHIM "$@"; mkdir {_STATE}/$ID; exit 0'):
        yield


@breaks("RUNTIME-CLEANUP-001")
@contextlib.contextmanager
def leaves_a_process() -> Iterator[None]:
    """Delete leaves a process of its own."""
    with _on_delete('$SHIM "$@"; setsid sleep 1000 </dev/null >/dev/null 2>&1 & exit 0'):
        yield


@breaks("RUNTIME-CLEANUP-002")
@contextlib.contextmanager
def deletes_with_another_status() -> Iterator[None]:
    """Delete tells that all went well."""
    with _on_delete(r"""$SHIM "$@" >/dev/null; printf '\010\001'; exit 0"""):
        yield


@breaks("RUNTIME-GROUP-002")
@contextlib.contextmanager
def ends_with_any_container() -> Iterator[None]:
    """Delete ends the shim of the container's pod, whoever else it serves."""
    script = r"""for FOUND in $(grep -lsaP "id\x00${ID%-*}\x00-address" /proc/[0-9]*/cmdline); do
        PROCESS=${FOUND%/cmdline}
        kill -KILL ${PROCESS#/proc/}
        while [ -e $PROCESS ]; do :; done
    done"""
    with _on_delete(script):
        yield


@breaks("RUNTIME-CLEANUP-003")
@contextlib.contextmanager
def leaves_its_socket() -> Iterator[None]:
    """The file of the socket stays."""
    with _on_delete('$SHIM "$@"; : >>"$(sed s,^unix://,, address)"; exit 0'):
        yield


@breaks("RUNTIME-CLEANUP-004")
@contextlib.contextmanager
def deletes_once() -> Iterator[None]:
    """Delete fails where there is nothing to delete."""
    with _on_delete("[ -e deleted ] && { echo it is gone >&2; exit 1; }; : >deleted"):
        yield


def _pids_hierarchy() -> Path:
    """Return where a cgroup can be made, of version 1 or 2."""
    found = _CGROUPS / "pids"
    return found if found.is_dir() else _CGROUPS


# --- What is left after an ordinary deletion


@contextlib.contextmanager
def _after_deletion(leave: Any) -> Iterator[None]:
    class Leaves(Fault):
        def response(self, request: Request, response: Response) -> Response | None:
            if request.method == "Delete" and not response.code:
                leave(asked(request, "DeleteRequest").id)
            return response

    with between(Leaves()):
        yield


@breaks("RUNTIME-LIFE-005")
@contextlib.contextmanager
def keeps_a_cgroup() -> Iterator[None]:
    """A cgroup of a deleted container stays."""
    with _after_deletion(lambda name: (_pids_hierarchy() / f"{name}-left").mkdir()):
        yield


@breaks("RUNTIME-LIFE-005")
@contextlib.contextmanager
def keeps_the_state() -> Iterator[None]:
    """The state of a deleted container stays."""
    with _after_deletion(lambda name: Path(f"{_STATE}/{name}").mkdir()):
        yield


@breaks("RUNTIME-LIFE-005")
@contextlib.contextmanager
def keeps_a_socket() -> Iterator[None]:
    """A socket of a deleted container stays bound."""
    with contextlib.ExitStack() as opened:

        def bind(name: str) -> None:
            stream = opened.enter_context(socket.socket(socket.AF_UNIX))
            stream.bind(f"\0{name}-left")

        with _after_deletion(bind):
            yield


# --- Streams


@contextlib.contextmanager
def _reading(change: Any) -> Iterator[None]:
    read = os.read
    with patch.object(stdio, "os", _OsWith(read=lambda descriptor, size: change(descriptor, read(descriptor, size)))):
        yield


class _OsWith:
    """The module ``os`` with some functions replaced."""

    def __init__(self, **functions: Any) -> None:
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@breaks("RUNTIME-STDIO-001")
@contextlib.contextmanager
def flips_a_byte_of_the_output() -> Iterator[None]:
    """The first byte of what arrives is another."""
    with _reading(lambda _, data: bytes([data[0] ^ 1]) + data[1:] if data else data):
        yield


@breaks("RUNTIME-STDIO-001")
@contextlib.contextmanager
def adds_to_the_output() -> Iterator[None]:
    """Something arrives before the end that nobody has written."""
    done: set[int] = set()

    def change(descriptor: int, data: bytes) -> bytes:
        if not data and descriptor not in done:
            done.add(descriptor)
            return b"more"
        return data

    with _reading(change):
        yield


@breaks("RUNTIME-STDIO-001")
@contextlib.contextmanager
def mixes_output_and_errors() -> Iterator[None]:
    """Errors are written to the output."""

    def paths(self: Streams) -> dict[str, str]:
        return {"stdin": "", "stdout": str(self.stdout.path), "stderr": str(self.stdout.path)}

    with patch.object(Streams, "paths", property(paths)):
        yield


@breaks("RUNTIME-STDIO-002")
@contextlib.contextmanager
def flips_a_byte_of_the_input() -> Iterator[None]:
    """The first byte of what is written to a process is another."""
    write = os.write

    def change(descriptor: int, data: Any) -> int:
        return write(descriptor, bytes([data[0] ^ 1]) + bytes(data[1:]))

    with patch.object(stdio, "os", _OsWith(write=change)):
        yield


@breaks("RUNTIME-STDIO-003")
@contextlib.contextmanager
def passes_on_what_no_terminal_writes() -> Iterator[None]:
    """What a process with a terminal writes arrives as if it had none."""
    with _reading(lambda _, data: data.replace(b"\r\n", b"\n")):
        yield


@breaks("RUNTIME-EXEC-001")
@contextlib.contextmanager
def mixes_streams() -> Iterator[None]:
    """What one process writes arrives in the output of another as well."""
    latest: dict[str, Any] = {"descriptor": -1, "data": b""}

    def change(descriptor: int, data: bytes) -> bytes:
        other = latest["data"] if latest["descriptor"] != descriptor else b""
        if data:
            latest.update(descriptor=descriptor, data=data)
        return data + other if data else data

    with _reading(change):
        yield


# --- Events


@contextlib.contextmanager
def _forwarding(change: Any) -> Iterator[None]:
    """Call ``change`` with the service, what takes events, the topic and the call."""
    forward = EventService._forward

    def broken(self: EventService, call: Call) -> bytes:
        for _ in range(change(call.payload)):
            forward(self, call)
        return b""

    with patch.object(EventService, "_forward", broken):
        yield


@breaks("RUNTIME-EVENT-001")
@contextlib.contextmanager
def publishes_the_start_twice() -> Iterator[None]:
    """The start of a container is published twice."""
    with _forwarding(lambda payload: 2 if b"/tasks/start" in payload else 1):
        yield


@breaks("RUNTIME-EVENT-002")
@contextlib.contextmanager
def loses_an_event() -> Iterator[None]:
    """The start of a process beside the first one is not published."""
    with _forwarding(lambda payload: 0 if b"/tasks/exec-started" in payload else 1):
        yield


@breaks("RUNTIME-EVENT-003")
@contextlib.contextmanager
def publishes_the_pause_twice() -> Iterator[None]:
    """A pause is published twice."""
    with _forwarding(lambda payload: 2 if b"/tasks/paused" in payload else 1):
        yield


@breaks("RUNTIME-OOM-001")
@contextlib.contextmanager
def keeps_the_want_of_memory_to_itself() -> Iterator[None]:
    """Nobody is told that a process was killed for want of memory."""
    with _forwarding(lambda payload: 0 if b"/tasks/oom" in payload else 1):
        yield


@breaks("RUNTIME-CLIENTS-003")
@contextlib.contextmanager
def publishes_to_everybody() -> Iterator[None]:
    """The events of one pod are published to all."""
    forward, make = EventService._forward, EventService.__init__
    services: list[EventService] = []

    def watched(self: EventService, *arguments: Any) -> None:
        services.append(self)
        make(self, *arguments)

    def broken(_self: EventService, call: Call) -> bytes:
        for service in services:
            forward(service, call)
        return b""

    with patch.object(EventService, "__init__", watched), patch.object(EventService, "_forward", broken):
        yield


# --- Others


@breaks("RUNTIME-CLEANUP-001")
@contextlib.contextmanager
def has_its_containers_end_for_it() -> Iterator[None]:
    """A shim that is told to end goes on, and its containers end."""
    kill = shim.ShimProcess.kill

    def broken(self: shim.ShimProcess, number: signal.Signals = signal.SIGKILL) -> None:
        if number is not signal.SIGTERM:
            kill(self, number)
            return
        for path in Path(f"/proc/{self.pid}/task").glob("*/children"):
            for child in path.read_text().split():
                os.kill(int(child), signal.SIGKILL)

    with patch.object(shim.ShimProcess, "kill", broken):
        yield


@breaks("RUNTIME-CLEANUP-006")
@contextlib.contextmanager
def kills_its_neighbours() -> Iterator[None]:
    """The cleanup after one shim ends the others."""
    pids: dict[str, int] = {}
    start, delete = shim.start, shim.delete

    def started(place: shim.Place, *arguments: Any) -> shim.StartedShim:
        result = start(place, *arguments)
        pids[place.name] = result.pid
        return result

    def deleted(place: shim.Place, *arguments: Any) -> Any:
        for name, pid in pids.items():
            if name != place.name:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return delete(place, *arguments)

    with patch.object(shim, "start", started), patch.object(shim, "delete", deleted):
        yield


@breaks("RUNTIME-CLIENTS-002")
@contextlib.contextmanager
def dies_with_a_client() -> Iterator[None]:
    """A shim ends when one of its clients does."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        path = Path(directory) / "s"
        listener.bind(str(path))
        listener.listen()
        shims: list[Any] = []

        def address(self: DirectBackend) -> Path:
            shims.append(self.shim)
            return path

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.recv(1)
                    shims[-1].kill()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        with patch.object(DirectBackend, "address", property(address)):
            yield
        listener.shutdown(socket.SHUT_RDWR)
        server.join()
