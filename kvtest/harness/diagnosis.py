# SPDX-License-Identifier: Apache-2.0
"""What can still be learnt when something did not happen in time: of a guest, and of this process."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterator

from kvtest.errors import KvtestError
from kvtest.harness.running import RunningMachine

_PATIENCE = 2.0  # seconds for each question; whoever does not answer in time has answered too
_CONSOLE_LINES = 40


def diagnose(guest: RunningMachine | None) -> Iterator[str]:
    """Yield the state of this process's threads and of a guest, a section at a time.

    Never raises: what cannot be learnt is said in its section.

    Args:
        guest: The guest, if there is one.
    """
    sections: list[tuple[str, Callable[[], str]]] = [("Python stacks of this process", stacks)]
    if guest is not None:
        sections += [
            (f"machine {guest.vm.name}", lambda: guest.died or f"{guest.vm.state}, {guest.vm.process.ending}"),
            ("QEMU's monitor", lambda: _monitor(guest)),
            (guest.inhabitant, lambda: guest.state(_PATIENCE)),
            ("vsock device", lambda: _device(guest)),
            ("console", lambda: guest.vm.console.tail(_CONSOLE_LINES)),
        ]
    for title, question in sections:
        yield f"--- {title}\n{_learnt(question)}\n\n"


def stacks() -> str:
    """Return where every thread of this process is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}"
        for number, frame in sys._current_frames().items()
    )


def _learnt(question: Callable[[], str]) -> str:
    try:
        return question()
    except KvtestError as error:
        return error.message
    except Exception as error:  # this must not hide what it is to explain
        return f"could not be learnt: {type(error).__name__}: {error}"


def _monitor(guest: RunningMachine) -> str:
    monitor = guest.vm.monitor
    status = monitor.execute("query-status", deadline=_PATIENCE)
    events = [f"{event['event']} {event.get('data', '')}" for event in monitor.events[-5:]]
    return "\n".join([f"status: {status.get('status')}", *events])


def _device(guest: RunningMachine) -> str:
    device = guest.vm.vsock_device
    if device is None:
        return "there is none"
    return f"{device.connections} connections, {device.fault or 'no fault'}"
