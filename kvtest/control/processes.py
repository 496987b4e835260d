# SPDX-License-Identifier: Apache-2.0
"""Commands in a guest."""

from __future__ import annotations

import contextlib
import shlex
import signal
from collections.abc import Iterator
from types import TracebackType

from attrs import frozen

from kvtest.control.requests import Requests
from kvtest.deadline import Deadline
from kvtest.errors import ConnectionLostError, DeadlineExceededError, GuestError
from kvtest.guest.messages import ATTACHMENT_LIMIT

_SHOWN = 200  # bytes of its output that a message shows


@frozen
class Completed:
    """How a command ended.

    Args:
        argv: The command.
        stdout: What it wrote to its standard output.
        stderr: What it wrote to its standard error.
        code: Its exit code; ``None`` if a signal ended it.
        signal: The signal that ended it, or ``None``.
    """

    argv: tuple[str, ...]
    stdout: bytes
    stderr: bytes
    code: int | None
    signal: signal.Signals | None

    @property
    def text(self) -> str:
        """Its standard output as text, without the last line's end."""
        return self.stdout.decode(errors="replace").rstrip("\n")

    def check(self) -> Completed:
        """Return itself.

        Raises:
            GuestError: It did not end with code 0.
        """
        if self.code != 0:
            how = f"was killed by {self.signal.name}" if self.signal is not None else f"exited with {self.code}"
            said = self.stderr.decode(errors="replace").strip()[-500:]
            raise GuestError(f"{' '.join(self.argv)} {how}: {said}")
        return self


class Process:
    """A command that runs in a guest.

    Args:
        requests: The channel.
        number: What the daemon calls it.
        argv: The command.
    """

    def __init__(self, requests: Requests, number: int, argv: tuple[str, ...]) -> None:
        self._requests = requests
        self._number = number
        self.argv = argv
        self.code: int | None = None
        self.signal: signal.Signals | None = None

    @property
    def ended(self) -> bool:
        """Whether its end has been seen, by :meth:`output` or :meth:`wait`."""
        return self.code is not None or self.signal is not None

    def output(self, deadline: Deadline | float | None = None) -> Iterator[tuple[str, bytes]]:
        """Yield what it writes as it comes, until it has ended.

        Args:
            deadline: When to give up, counted from now.

        Yields:
            ``stdout`` or ``stderr``, and the bytes.
        """
        deadline = Deadline.of(self._requests.timeout if deadline is None else deadline)
        while not self.ended:
            document, data = self._requests.send("Next", {"process": self._number}, deadline=deadline)
            for stream, size in document["output"]:
                yield stream, data[:size]
                data = data[size:]
            if "code" in document:
                self.code = document["code"]
            elif "signal" in document:
                self.signal = signal.Signals(document["signal"])

    def wait(self, deadline: Deadline | float | None = None) -> Completed:
        """Collect its output until it has ended.

        Raises:
            DeadlineExceededError: It did not end in time.
        """
        deadline = Deadline.of(self._requests.timeout if deadline is None else deadline)
        collected = {"stdout": bytearray(), "stderr": bytearray()}
        try:
            for stream, data in self.output(deadline):
                collected[stream] += data
        except DeadlineExceededError:
            said = b"".join(collected.values())[-_SHOWN:].decode(errors="replace")
            raise deadline.exceeded(
                f"{shlex.join(self.argv)} to end", f"its output {said!r}" if said else None
            ) from None
        return Completed(self.argv, bytes(collected["stdout"]), bytes(collected["stderr"]), self.code, self.signal)

    def write(self, data: bytes, deadline: Deadline | float | None = None) -> None:
        """Write to its input; returns when it has taken all."""
        for offset in range(0, len(data), ATTACHMENT_LIMIT):
            part = data[offset : offset + ATTACHMENT_LIMIT]
            self._requests.send("Write", {"process": self._number}, part, deadline)

    def close_input(self) -> None:
        """End its input."""
        self._requests.send("CloseInput", {"process": self._number})

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of its terminal."""
        self._requests.send("Resize", {"process": self._number, "rows": rows, "columns": columns})

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal; harmless once it has ended."""
        self._requests.send("Signal", {"process": self._number, "signal": int(number)})

    def close(self) -> None:
        """Kill it if it runs, and let the daemon forget it."""
        with contextlib.suppress(ConnectionLostError, GuestError):  # the guest is gone, or it has been tidied
            self._requests.send("Forget", {"process": self._number})

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
