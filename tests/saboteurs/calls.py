# SPDX-License-Identifier: Apache-2.0
"""Ways to break a shim's answers to calls."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from unittest.mock import patch

import attrs

from kvtest.rpc.envelope import Request, Response
from kvtest.rpc.status import Code
from kvtest.runtime import Status, spec
from kvtest.runtime.sink import EventService, Sink
from tests.saboteurs.registry import breaks
from tests.saboteurs.wire import Fault, altered, asked, between, ok


@breaks("RUNTIME-LIFE-001")
@contextlib.contextmanager
def is_always_running() -> Iterator[None]:
    """Every container is said to run."""

    class Always(Fault):
        def response(self, request: Request, response: Response) -> Response | None:
            return altered(response, "StateResponse", status=2) if request.method == "State" else response

    with between(Always()):
        yield


@breaks("RUNTIME-LIFE-002")
@contextlib.contextmanager
def ignores_shutdown() -> Iterator[None]:
    """A shim stays when it is told to shut down."""

    class Ignores(Fault):
        def request(self, request: Request) -> Request | Response | None:
            return ok() if request.method == "Shutdown" else request

    with between(Ignores()):
        yield


@breaks("RUNTIME-LIFE-003")
@contextlib.contextmanager
def deletes_what_runs() -> Iterator[None]:
    """A running container is said to be deleted."""

    class Deletes(Fault):
        def response(self, request: Request, response: Response) -> Response | None:
            return ok(exit_status=0) if request.method == "Delete" and response.code else response

    with between(Deletes()):
        yield


@breaks("RUNTIME-LIFE-004")
@contextlib.contextmanager
def calls_everything_unknown() -> Iterator[None]:
    """What is not found fails with UNKNOWN."""

    class Unknown(Fault):
        def response(self, request: Request, response: Response) -> Response | None:
            return Response(2, response.message, b"") if response.code else response

    with between(Unknown()):
        yield


@breaks("RUNTIME-EXIT-001")
@contextlib.contextmanager
def tells_another_status() -> Iterator[None]:
    """Wait tells an exit status that is not the process's."""

    class Another(Fault):
        def response(self, request: Request, response: Response) -> Response | None:
            if request.method != "Wait" or response.code:
                return response
            return altered(response, "WaitResponse", exit_status=lambda status: (status + 1) % 256)

    with between(Another()):
        yield


@breaks("RUNTIME-EXIT-002")
@contextlib.contextmanager
def tells_the_bare_signal() -> Iterator[None]:
    """The exit status of a process that a signal has ended is the signal's number."""

    class Bare(Fault):
        def response(self, request: Request, response: Response) -> Response | None:
            if request.method != "Wait" or response.code:
                return response
            return altered(response, "WaitResponse", exit_status=lambda status: status % 128)

    with between(Bare()):
        yield


@breaks("RUNTIME-EXIT-003")
@contextlib.contextmanager
def tells_the_first_only() -> Iterator[None]:
    """Only the first who waits gets the exit status."""

    @attrs.define
    class First(Fault):
        told: bool = False

        def response(self, request: Request, response: Response) -> Response | None:
            if request.method != "Wait":
                return response
            told, self.told = self.told, True
            return altered(response, "WaitResponse", exit_status=255) if told else response

    with between(First()):
        yield


@breaks("RUNTIME-STDIO-002")
@contextlib.contextmanager
def never_ends_the_input() -> Iterator[None]:
    """CloseIO does nothing."""

    class Never(Fault):
        def request(self, request: Request) -> Request | Response | None:
            return ok() if request.method == "CloseIO" else request

    with between(Never()):
        yield


@breaks("RUNTIME-STDIO-005")
@contextlib.contextmanager
def swaps_rows_and_columns() -> Iterator[None]:
    """A terminal gets as many rows as it was to have columns."""

    class Swaps(Fault):
        def request(self, request: Request) -> Request | Response | None:
            if request.method != "ResizePty":
                return request
            message = asked(request, "ResizePtyRequest")
            message.width, message.height = message.height, message.width
            return request._replace(payload=message.SerializeToString())

    with between(Swaps()):
        yield


@breaks("RUNTIME-EXEC-004")
@contextlib.contextmanager
def never_frees_an_id() -> Iterator[None]:
    """The ID of a process can be used once."""

    @attrs.define
    class Once(Fault):
        used: set[tuple[str, str]] = attrs.Factory(set)

        def request(self, request: Request) -> Request | Response | None:
            if request.method != "Exec":
                return request
            message = asked(request, "ExecProcessRequest")
            name = message.id, message.exec_id
            if name in self.used:
                return Response(int(Code.ALREADY_EXISTS), "it was used before", b"")
            self.used.add(name)
            return request

    with between(Once()):
        yield


@breaks("RUNTIME-EXEC-002")
@contextlib.contextmanager
def ends_with_any_process() -> Iterator[None]:
    """A container ends with the first process that ends in it."""

    @attrs.define
    class Ends(Fault):
        pid: int = 0

        def response(self, request: Request, response: Response) -> Response | None:
            if request.method == "Create":
                self.pid = asked(Request("", "", response.payload, 0), "CreateTaskResponse").pid
            if request.method == "Delete" and asked(request, "DeleteRequest").exec_id:
                pidfd = os.pidfd_open(self.pid)
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)
            if request.method == "State":  # its end may be noticed later than that it is asked for
                return altered(response, "StateResponse", status=int(Status.STOPPED))
            return response

    with between(Ends()):
        yield


@breaks("RUNTIME-EXEC-003")
@contextlib.contextmanager
def starts_what_does_not_exist() -> Iterator[None]:
    """A process whose program does not exist is said to have started."""

    class Starts(Fault):
        def response(self, request: Request, response: Response) -> Response | None:
            return ok() if request.method == "Start" and response.code else response

    with between(Starts()):
        yield


@breaks("RUNTIME-KILL-001")
@contextlib.contextmanager
def always_kills() -> Iterator[None]:
    """Every signal is SIGKILL."""

    class Kills(Fault):
        def request(self, request: Request) -> Request | Response | None:
            if request.method != "Kill":
                return request
            message = asked(request, "KillRequest")
            message.signal = int(signal.SIGKILL)
            return request._replace(payload=message.SerializeToString())

    with between(Kills()):
        yield


@breaks("RUNTIME-PAUSE-001")
@contextlib.contextmanager
def does_not_pause() -> Iterator[None]:
    """A container that is to pause goes on, and is said to be paused."""

    @attrs.define
    class Goes(Fault):
        paused: bool = False

        def request(self, request: Request) -> Request | Response | None:
            if request.method in ("Pause", "Resume"):
                self.paused = request.method == "Pause"
                return ok()
            return request

        def response(self, request: Request, response: Response) -> Response | None:
            paused = self.paused and request.method == "State"
            return altered(response, "StateResponse", status=int(Status.PAUSED)) if paused else response

    with between(Goes()):
        yield


@breaks("RUNTIME-PAUSE-002")
@contextlib.contextmanager
def pauses_what_has_ended() -> Iterator[None]:
    """Every pause is said to have succeeded."""

    class Pauses(Fault):
        def response(self, request: Request, response: Response) -> Response | None:
            return ok() if request.method == "Pause" else response

    with between(Pauses()):
        yield


@breaks("RUNTIME-UPDATE-001")
@contextlib.contextmanager
def keeps_the_old_limits() -> Iterator[None]:
    """Limits are said to have been changed."""

    class Keeps(Fault):
        def request(self, request: Request) -> Request | Response | None:
            return ok() if request.method == "Update" else request

    with between(Keeps()):
        yield


@breaks("RUNTIME-STATS-001")
@contextlib.contextmanager
def has_no_stats() -> Iterator[None]:
    """What a container uses is answered with nothing."""

    class Empty(Fault):
        def request(self, request: Request) -> Request | Response | None:
            return ok() if request.method == "Stats" else request

    with between(Empty()):
        yield


@breaks("RUNTIME-PIDS-001")
@contextlib.contextmanager
def hides_a_process() -> Iterator[None]:
    """The last process of a container is not told."""

    class Hides(Fault):
        def response(self, request: Request, response: Response) -> Response | None:
            if request.method != "Pids":
                return response
            message = asked(Request("", "", response.payload, 0), "PidsResponse")
            del message.processes[-1]
            return Response(0, "", message.SerializeToString())

    with between(Hides()):
        yield


@breaks("RUNTIME-GROUP-002")
@contextlib.contextmanager
def has_a_shim_for_each_container() -> Iterator[None]:
    """The containers of a pod have a shim each."""
    with patch.object(spec, "_POD", "org.kvtest.nobody-asks-for-this"):
        yield


@breaks("RUNTIME-CLIENTS-001")
@contextlib.contextmanager
def serves_one_call_at_a_time() -> Iterator[None]:
    """While somebody waits, nothing else is answered."""

    @attrs.define
    class One(Fault):
        waiting: int = 0

        def request(self, request: Request) -> Request | Response | None:
            blocked = self.waiting and request.method != "Wait"
            self.waiting += request.method == "Wait"
            return None if blocked and request.method in ("State", "Exec") else request

        def response(self, request: Request, response: Response) -> Response | None:
            self.waiting -= request.method == "Wait"
            return response

    with between(One()):
        yield


@breaks("RUNTIME-LOST-001")
@contextlib.contextmanager
def does_not_notice_a_death() -> Iterator[None]:
    """Nobody who waits is told of the end of a container."""

    class Blind(Fault):
        def response(self, request: Request, response: Response) -> Response | None:
            return None if request.method == "Wait" else response

    with between(Blind()):
        yield


@breaks("RUNTIME-LOST-002")
@contextlib.contextmanager
def forgets_what_came_meanwhile() -> Iterator[None]:
    """What is asked after a first wait is never answered."""

    @attrs.define
    class Forgets(Fault):
        asked: int = 0

        def request(self, request: Request) -> Request | Response | None:
            self.asked += request.method == "Wait"
            return None if request.method == "Wait" and self.asked == 2 else request

    with between(Forgets()):
        yield


@breaks("RUNTIME-CLEANUP-007")
@contextlib.contextmanager
def keeps_calls_waiting() -> Iterator[None]:
    """Whoever called a shim that has died waits on."""

    class Keeps(Fault):
        def ended(self) -> bool:
            return False

    with between(Keeps()):
        yield


@breaks("RUNTIME-EVENT-004")
@contextlib.contextmanager
def waits_for_its_events_to_be_taken() -> Iterator[None]:
    """A shim whose events nobody takes starts no container."""
    live = threading.Event()
    make = EventService.__init__

    def watched(self: EventService, path: object, take: object, sink: Sink = Sink.LIVE) -> None:
        if sink is Sink.LIVE:
            live.set()
        make(self, path, take, sink)  # type: ignore[arg-type]

    class Waits(Fault):
        def request(self, request: Request) -> Request | Response | None:
            return None if request.method == "Start" and not live.is_set() else request

    with patch.object(EventService, "__init__", watched), between(Waits()):
        yield
