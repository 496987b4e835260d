# SPDX-License-Identifier: Apache-2.0
"""The debug console of a pod's guest: a shell of the agent, from which a test does harm inside."""

from __future__ import annotations

import re
import signal
from types import TracebackType

from kvtest.deadline import Deadline
from kvtest.errors import DeadlineExceededError, NotOfferedError, StateError, TransportError
from kvtest.runtime.agent_dial import dial
from kvtest.runtime.machine import address_in
from kvtest.runtime.profile import Profile

_INIT = 1
_CHUNK = 4096
# What the shell prints; what it shows of the question has a dollar sign there.
_ANSWER = re.compile(rb"the agent is ([0-9]+)\b")
_QUESTION = "echo the agent is $PPID"


class Console:
    """A shell in the guest of a pod. It takes commands as long as the agent lives that runs it.

    Args:
        profile: The profile of the pod's runtime.
        pod: ID of the pod, which has a virtual machine.
        deadline: When to give up.

    Raises:
        NotOfferedError: There is none, and the profile says how to have one.
        StateError: The profile knows of none, or the virtual machine is not there, or not as the profile says.
        TransportError: Nobody answers.
        DeadlineExceededError: Nobody answers in time.
    """

    def __init__(self, profile: Profile, pod: str, deadline: Deadline | float) -> None:
        deadline = Deadline.of(deadline)
        if profile.vm is None or profile.vm.console is None:
            raise StateError(f"{profile.name} has no debug console, says its profile")
        self._described = profile.vm.console
        address = address_in(profile, pod, self._described)
        try:
            self._connection = dial(address, deadline)
            try:
                self._agent = self._ask(deadline)
            except BaseException:
                self._connection.close()
                raise
        except (TransportError, DeadlineExceededError) as error:
            if self._described.cure is None:
                raise
            reason = f"its debug console does not answer ({error.message})"
            raise NotOfferedError(reason, hint=self._described.cure) from error

    def _ask(self, deadline: Deadline) -> int:
        """Return the process ID that the agent has in the guest: whose child the shell is."""
        self.run(_QUESTION)
        said = bytearray()
        while (found := _ANSWER.search(said)) is None:
            self._connection.settimeout(deadline.remaining)
            try:
                data = self._connection.recv(_CHUNK)
            except TimeoutError as error:
                raise deadline.exceeded("the debug console to answer", repr(bytes(said))) from error
            except OSError as error:
                raise TransportError(f"the debug console broke: {error.strerror}") from error
            if not data:
                raise TransportError(f"the debug console ended after it had said {bytes(said)!r}")
            said += data
        return int(found[1])

    def run(self, line: str) -> None:
        """Have the shell run a line. It may not come to that if the console is closed at once.

        Args:
            line: The line.

        Raises:
            TransportError: The console has ended.
        """
        try:
            self._connection.sendall(line.encode() + b"\n")
        except OSError as error:
            raise TransportError(f"the debug console broke: {error.strerror}") from error

    def signal_agent(self, number: signal.Signals) -> None:
        """Send a signal to the agent, which may take this console with it.

        Args:
            number: The signal.

        Raises:
            NotOfferedError: The agent is the guest's init, which the kernel shields from signals from inside.
        """
        if self._agent == _INIT:
            raise NotOfferedError("its agent is the guest's init, which no signal from inside ends (kill(2), NOTES)")
        self.run(f"kill -{number.name.removeprefix('SIG')} {self._agent}")

    def panic(self) -> None:
        """Make the kernel of the guest panic."""
        self.run(self._described.panic)

    def power_off(self) -> None:
        """Turn the guest off, from inside."""
        self.run(self._described.power_off)

    def close(self) -> None:
        """End the connection, and the shell with it."""
        self._connection.close()

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
