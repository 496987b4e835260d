# SPDX-License-Identifier: Apache-2.0
"""``kvtest shell``: an interactive shell in a fresh guest, over the control channel."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import Annotated

import typer

from kvtest.cli.console import progress
from kvtest.cli.options import Given, settings_of, with_settings
from kvtest.control import Process
from kvtest.deadline import Deadline
from kvtest.errors import BootError, ConnectionLostError, GuestError, UsageError
from kvtest.harness import GuestFactory, GuestRequest
from kvtest.ownership import RunDirectory

_CHUNK = 4096


@with_settings()
def shell(
    given: Given,
    command: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]...", help="In place of a shell")] = None,
) -> None:
    """Boot a guest and give its shell; the guest ends with it. The exit status is the shell's."""
    settings = settings_of(given)
    if sys.stdin is None:
        raise UsageError("the standard input is closed: a shell has nothing to read", hint="give it </dev/null")
    with RunDirectory(settings.run_directory) as directory:
        factory = GuestFactory(settings, directory.path, progress=progress)
        configuration = factory.configuration(GuestRequest())
        with progress(f"starting a guest with kernel {settings.kernel}"):
            guest = factory.start(configuration)
        with guest:
            interactive = os.isatty(sys.stdin.fileno())
            process = guest.control.start_process(
                command or ["sh", "-l"],
                terminal=_size() if interactive else None,
                with_input=True,
                environment={"TERM": os.environ.get("TERM", "linux"), "PS1": r"guest:\w# "},
            )
            with process, _raw_terminal(process) if interactive else contextlib.nullcontext():
                _converse(process)
            if guest.control.lost is not None:
                raise BootError(f"the guest is gone: {guest.died or guest.control.lost}", hint=guest.vm.console.tail())
    if process.signal is not None:
        raise typer.Exit(128 + process.signal)
    raise typer.Exit(process.code or 0)


def _converse(process: Process) -> None:
    """Pass what is typed to the process, and what it writes to us, until it has ended."""
    # A daemon thread: it may wait for a key that is never pressed.
    threading.Thread(target=_type, args=(process,), name="kvtest-shell-input", daemon=True).start()
    with contextlib.suppress(ConnectionLostError):  # said by whoever knows why
        for stream, data in process.output(Deadline(None)):
            target = sys.stdout if stream == "stdout" else sys.stderr
            target.buffer.write(data)
            target.buffer.flush()


def _type(process: Process) -> None:
    with contextlib.suppress(GuestError, ConnectionLostError):  # the process, or the guest, has ended
        while data := os.read(sys.stdin.fileno(), _CHUNK):
            process.write(data, Deadline(None))
        process.close_input()


@contextlib.contextmanager
def _raw_terminal(process: Process) -> Iterator[None]:
    """Hand every key to the guest, and every change of our size."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    changes, teller = os.pipe()
    os.set_blocking(teller, False)
    os.write(teller, b"\0")  # for a change before we listened

    def follow() -> None:
        with open(changes, "rb", 0) as told:
            while told.read(_CHUNK):
                with contextlib.suppress(GuestError, ConnectionLostError):
                    process.resize(*_size())

    # Not in the handler: it may interrupt a call on the same channel, and comes late where the kernel gives the
    # signal to another thread than ours, which waits.
    previous = signal.signal(signal.SIGWINCH, lambda _number, _frame: None)
    told_before = signal.set_wakeup_fd(teller, warn_on_full_buffer=False)
    try:
        tty.setraw(descriptor)
        threading.Thread(target=follow, name="kvtest-shell-size", daemon=True).start()
        yield
    finally:
        signal.set_wakeup_fd(told_before)
        signal.signal(signal.SIGWINCH, previous)
        os.close(teller)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _size() -> tuple[int, int]:
    # Not shutil's: that one believes LINES and COLUMNS, which say what was true when a shell last looked.
    size = os.get_terminal_size(sys.stdin.fileno())
    return size.lines, size.columns
