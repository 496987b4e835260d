# SPDX-License-Identifier: Apache-2.0
"""What QEMU is given to go on where a template was frozen."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kvtest.deadline import Deadline
from kvtest.errors import HostError, QMPError
from kvtest.vm.configuration import Restore
from kvtest.vm.template import Template

_BLOCK = 4 << 20


class Restoration:
    """The memory and the state of one clone.

    A clone that nobody else writes to maps the template's memory copy-on-write. A vhost-user device writes to the
    memory too, so then the clone gets a copy, which is made while QEMU starts: QEMU waits for the state, which is
    given after it.

    Args:
        template: The template.
        shared: Whether the memory is to be shared with a vhost-user device.
        resources: Where what has to be closed is registered.
    """

    def __init__(self, template: Template, *, shared: bool, resources: contextlib.ExitStack) -> None:
        self._template = template
        self._problem: OSError | None = None
        self._handed_over = contextlib.ExitStack()
        memory = template.memory
        self.pass_fds: list[int] = []
        giver = resources.enter_context(ThreadPoolExecutor(1, "kvtest-restore"))
        # Closed before the giver is waited for: it may be giving the state to a QEMU that never came.
        resources.enter_context(self._handed_over)
        copy = None
        if shared:
            descriptor = os.memfd_create("kvtest-memory")
            os.truncate(descriptor, template.memory.stat().st_size)
            copy, memory = os.dup(descriptor), Path(f"/proc/self/fd/{self._hand_over(descriptor)}")
        # Not the file itself, which QEMU takes from a descriptor no more since 11.
        ours, theirs = socket.socketpair()
        state = self._hand_over(theirs.detach())
        giver.submit(self._give, copy, ours)
        # Written before QEMU exists, so that it need not wait for us between one command and the next.
        self._replies, theirs = socket.socketpair()
        resources.enter_context(self._replies)
        self._commands = _commands(state)
        self._replies.sendall(b"".join(json.dumps(command).encode() for command in self._commands))
        self.start = Restore(memory, shared, template.kernel, self._hand_over(theirs.detach()))

    def _hand_over(self, descriptor: int) -> int:
        self._handed_over.callback(os.close, descriptor)
        self.pass_fds.append(descriptor)
        return descriptor

    def handed_over(self) -> None:
        """Close our side of what QEMU has inherited: its end is to be the end of it."""
        self._handed_over.close()

    def accepted(self, deadline: Deadline) -> None:
        """See that QEMU has taken the commands; it restores the machine then.

        Args:
            deadline: When to give up.

        Raises:
            QMPError: It has refused one, or has ended.
            DeadlineExceededError: It stayed silent.
        """
        waiting, said = list(self._commands), b""
        while waiting:
            *lines, said = said.split(b"\n")
            for reply in map(json.loads, lines):
                if "error" in reply:
                    raise QMPError(f"QEMU refused {waiting[0]['execute']}: {reply['error']['desc']}")
                if "return" in reply:
                    waiting.pop(0)
            if waiting:
                self._replies.settimeout(deadline.remaining)
                try:
                    data = self._replies.recv(_BLOCK)
                except TimeoutError:
                    raise deadline.exceeded(f"QEMU's reply to {waiting[0]['execute']}") from None
                if not data:
                    raise QMPError(f"QEMU has ended before it took {waiting[0]['execute']}")
                said += data

    def check(self) -> None:
        """Raise what went wrong while the memory was copied, if anything did.

        Raises:
            HostError: There was no room for it.
        """
        if self._problem is not None:
            raise HostError(
                f"could not copy a template's memory of {self._size >> 20} MB: {self._problem.strerror}",
                hint="free memory, or run fewer guests at once with -n",
            )

    @property
    def _size(self) -> int:
        return sum(size for _, size in self._template.extents)

    def _give(self, memory: int | None, state: socket.socket) -> None:
        with state:
            try:
                if memory is not None:
                    with open(memory, "wb", buffering=0):
                        self._copy(memory)
                state.sendall(self._template.state.read_bytes())
            except BrokenPipeError:  # QEMU has ended, which is noticed elsewhere
                pass
            except OSError as error:
                self._problem = error

    def _copy(self, memory: int) -> None:
        with (
            self._template.memory.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as source,
            memoryview(source) as view,
        ):
            for start, size in self._template.extents:
                offset, end = start, start + size
                while offset < end:
                    offset += os.pwrite(memory, view[offset : min(offset + _BLOCK, end)], offset)


def _commands(state: int) -> list[dict[str, object]]:
    capability = {"capability": "x-ignore-shared", "state": True}
    return [
        {"execute": "qmp_capabilities"},
        {"execute": "migrate-set-capabilities", "arguments": {"capabilities": [capability]}},
        {"execute": "migrate-incoming", "arguments": {"uri": f"fd:{state}"}},
    ]
