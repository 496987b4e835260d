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

from kvtest.errors import HostError
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
        if shared:
            copy = os.memfd_create("kvtest-memory")
            os.truncate(copy, template.memory.stat().st_size)
            ours, theirs = socket.socketpair()
            copier = resources.enter_context(ThreadPoolExecutor(1, "kvtest-copy"))
            # Closed before the copier is waited for: it may be giving the state to a QEMU that never came.
            resources.enter_context(self._handed_over)
            copier.submit(self._give, os.dup(copy), ours)
            memory, state = Path(f"/proc/self/fd/{self._hand_over(copy)}"), self._hand_over(theirs.detach())
        else:
            resources.enter_context(self._handed_over)
            state = self._hand_over(os.open(template.state, os.O_RDONLY | os.O_CLOEXEC))
        # Written before QEMU exists, so that it need not wait for us between one command and the next.
        ours, theirs = socket.socketpair()
        resources.enter_context(ours)
        ours.sendall(b"".join(json.dumps(command).encode() for command in _commands(state)))
        self.start = Restore(memory, shared, template.kernel, self._hand_over(theirs.detach()))

    def _hand_over(self, descriptor: int) -> int:
        self._handed_over.callback(os.close, descriptor)
        self.pass_fds.append(descriptor)
        return descriptor

    def handed_over(self) -> None:
        """Close our side of what QEMU has inherited: its end is to be the end of it."""
        self._handed_over.close()

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

    def _give(self, memory: int, state: socket.socket) -> None:
        with state:
            try:
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
