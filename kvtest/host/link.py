# SPDX-License-Identifier: Apache-2.0
"""Our end of the conversation with an attendant on another machine."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING

from kvtest.deadline import Deadline
from kvtest.errors import HostLostError
from kvtest.host.frames import MARK, Frames, Header, pack

if TYPE_CHECKING:
    import paramiko

SILENCE_SECONDS = 60.0
"""How long either end may say nothing before the other takes the connection for dead."""
_CLOSING_SECONDS = 30.0  # the attendant ends what still runs
_BATCH = 1 << 16
_NOISE = 2000  # characters of what came before the attendant spoke that are told


class Link:
    """The conversation over one channel. Something is said at least every few seconds for as long as it is open.

    Args:
        channel: The channel, on which an attendant has been started.
        name: What to call the other machine in messages.
        silence: Seconds without a word after which the other machine is taken for gone.
    """

    def __init__(self, channel: paramiko.Channel, name: str, silence: float = SILENCE_SECONDS) -> None:
        self.name = name
        #: What came where an attendant was to greet.
        self.noise = ""
        self._channel = channel
        self._silence = silence
        self._frames = Frames()
        self._came: deque[tuple[Header, bytes]] = deque()
        self._waiting = bytearray()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._is_lost = False
        self._speaker = threading.Thread(target=self._speak, name="kvtest-link", daemon=True)
        channel.settimeout(silence)

    def greet(self) -> Header | None:
        """Wait for the attendant's first words.

        Returns:
            What it says of itself and its machine; ``None`` if it has ended without a word.

        Raises:
            HostLostError: Nothing came for too long.
        """
        noise = bytearray()
        while MARK not in noise:
            data = self._read()
            if not data:
                self.noise = noise.decode(errors="replace").strip()[-_NOISE:]
                return None
            noise += data
        self._take(bytes(noise.partition(MARK)[2]))
        self._speaker.start()
        header, _ = self.receive()
        return header

    def send(self, header: Header, payload: bytes = b"", *, more: bool = False) -> None:
        """Send a frame.

        Args:
            header: Its header.
            payload: Its bytes.
            more: Whether another one follows at once; then it may be sent together with that.

        Raises:
            HostLostError: The connection is lost.
        """
        with self._lock:
            self._waiting += pack(header, payload)
            if more and len(self._waiting) < _BATCH:
                return
            try:
                self._channel.sendall(bytes(self._waiting))
            except OSError as error:
                raise self.lost() from error
            self._waiting.clear()

    def receive(self) -> tuple[Header, bytes]:
        """Return the next frame; answers to our signs of life are no frames.

        Raises:
            HostLostError: The connection is lost, or the other machine says nothing any more.
        """
        while not self._came:
            data = self._read()
            if not data:
                raise self.lost()
            self._take(data)
        return self._came.popleft()

    @property
    def waiting(self) -> bool:
        """Whether a frame has come that nobody has asked for yet."""
        while self._channel.recv_ready():
            self._take(self._read())
        return bool(self._came)

    def lost(self) -> HostLostError:
        """Return the error of whoever finds that the connection is lost."""
        self._is_lost = True
        transport = self._channel.get_transport()
        reason = transport.get_exception() if transport is not None else None
        said = self.complaint()
        why = str(reason or "") or said or "it was closed at the other end"  # an EOFError says nothing
        return HostLostError(f"the connection to {self.name} is lost: {why}", hint="see whether the machine is up")

    def complaint(self) -> str:
        """Return what was written to standard error there."""
        data = b""
        with contextlib.suppress(OSError):
            while self._channel.recv_stderr_ready() and (more := self._channel.recv_stderr(_NOISE)):
                data += more
        return data.decode(errors="replace").strip()[-_NOISE:]

    def exit_status(self) -> int:
        """Return the exit status of the attendant, which has ended; -1 if the other machine does not say."""
        return self._channel.recv_exit_status() if self._channel.status_event.wait(_CLOSING_SECONDS) else -1

    def close(self) -> None:
        """Tell the attendant that we are done, and wait until it has cleared up."""
        self._closed.set()
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()
            deadline = Deadline(0.0 if self._is_lost else _CLOSING_SECONDS)  # of what is lost nothing comes any more
            while not deadline.expired:
                self._channel.settimeout(deadline.remaining)
                if not self._channel.recv(_BATCH):
                    break
        self._channel.close()
        if self._speaker.ident is not None:
            self._speaker.join()

    def _take(self, data: bytes) -> None:
        self._frames.feed(data)
        self._came.extend(frame for frame in self._frames.take() if "pong" not in frame[0])

    def _read(self) -> bytes:
        try:
            return self._channel.recv(_BATCH)
        except TimeoutError as error:
            self._is_lost = True
            raise HostLostError(
                f"the connection to {self.name} is lost: it has said nothing for {self._silence:.0f} s",
                hint="see whether the machine is up, and the network between",
            ) from error

    def _speak(self) -> None:
        """Give signs of life: the attendant ends the run when there are none."""
        while not self._closed.wait(self._silence / 6):
            try:
                self.send({"ping": 1})
            except HostLostError:  # whoever waits for an answer is told
                return
