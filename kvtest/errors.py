# SPDX-License-Identifier: Apache-2.0
"""Every exception that kvtest raises on purpose.

The tree::

    KvtestError
    ├── UsageError                  the user's input is wrong (exit status 2)
    │   ├── SettingError            a setting, flag, variable or configuration file
    │   ├── RecipeError             an image recipe or a table of kernels
    │   ├── ProfileError            the profile of a runtime
    │   └── UnknownNameError        no kernel, transport, requirement … of that name
    ├── HostError                   this machine lacks something (exit status 2)
    │   ├── MissingToolError        a program is absent or too old
    │   ├── AcceleratorError        the accelerator asked for cannot run a guest
    │   ├── CacheError              the cache cannot be read or written
    │   ├── HostLostError           another host, on which suites were running, is gone
    │   └── WorkerLostError         the process that ran a test has ended in the middle of it
    ├── ImageError                  an image could not be built
    ├── StateError                  a call that the object's present state does not allow
    │   └── NotOfferedError         a runtime does not offer what was asked for, and need not
    ├── VMError                     a virtual machine failed
    │   ├── BootError               it never became ready
    │   ├── TemplateError           it could not be frozen
    │   │   └── TemplateRemovedError    somebody has removed it before it could be used
    │   └── QMPError                QEMU refused a command, or its monitor went away
    ├── RuntimeFailedError          a container runtime, or containerd, could not be started or does not do its part
    │   ├── ShimError               a shim
    │   └── ContainerdError         containerd
    ├── GuestError                  the guest refused or failed a request
    │   └── RemoteFunctionError     a Python function raised in the guest
    ├── RPCError                    a ttRPC call ended with a status other than OK
    │   └── ConnectionLostError     its connection ended before the reply
    ├── FrameError                  a peer sent bytes that are not ttRPC
    ├── HostKernelError             the host's kernel has complained of itself
    ├── LeakError                   something is left on the host that a test has made
    ├── TransportError              a channel could not be opened
    ├── DeviceError                 a guest broke the rules of a device (names the fault)
    ├── InternalError               kvtest itself is at fault (exit status 3)
    └── DeadlineExceededError       something awaited did not happen in time

An expected failure reads as one message: what was tried, what was seen, what to do. ``message`` holds the first two,
``hint`` the last. Modules add subclasses' data as attributes, never by formatting alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class KvtestError(Exception):
    """Base of everything that kvtest raises on purpose.

    Args:
        message: What was tried and what was seen, one sentence without a full stop.
        hint: What the user can do about it; may hold several lines.
    """

    refused: ClassVar[bool] = False
    """Whether somebody was asked and has refused: there is an answer."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"


class UsageError(KvtestError):
    """The user's input is wrong."""


class SettingError(UsageError):
    """A setting has a value that cannot be used."""


class RecipeError(UsageError):
    """An image recipe or a table of kernels cannot be used."""


class ProfileError(UsageError):
    """The profile of a runtime cannot be used."""


class UnknownNameError(UsageError):
    """Nothing of that kind has that name.

    Args:
        kind: What was looked for, such as ``kernel``.
        name: The name that the user gave.
        known: The names that exist; the nearest is suggested.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.known = sorted(known)
        super().__init__(f"unknown {kind} {name!r}", hint=suggestion(name, self.known))


class HostError(KvtestError):
    """This machine lacks something that was needed."""


class MissingToolError(HostError):
    """A program is absent or too old."""


class AcceleratorError(HostError):
    """The accelerator that was asked for cannot run a guest here."""


class CacheError(HostError):
    """The cache directory cannot be used."""


class HostLostError(HostError):
    """Another host, on which suites were running, is gone or cannot be reached any more."""


class WorkerLostError(HostError):
    """The process that ran a test has ended in the middle of it."""


class ImageError(KvtestError):
    """An image could not be built."""


class StateError(KvtestError):
    """A call came in a state that does not allow it."""


class NotOfferedError(StateError):
    """A runtime does not offer what was asked for, and need not: a test that needs it is not applicable."""


class VMError(KvtestError):
    """A virtual machine failed."""


class BootError(VMError):
    """A guest never became ready."""


class TemplateError(VMError):
    """A machine could not be frozen as a template."""


class TemplateRemovedError(TemplateError):
    """A template was removed before it could be used."""


class QMPError(VMError):
    """QEMU refused a command, or its monitor connection ended."""


class RuntimeFailedError(KvtestError):
    """A container runtime, or containerd, could not be started or does not do its part."""


class ShimError(RuntimeFailedError):
    """A shim could not be started, or does not keep to what containerd and shims have agreed on."""


class ContainerdError(RuntimeFailedError):
    """containerd could not be started."""


class GuestError(KvtestError):
    """The guest refused or failed a request."""


class RemoteFunctionError(GuestError):
    """A Python function raised inside the guest.

    Args:
        message: Which function raised what.
        traceback: The guest's traceback, as text.
    """

    def __init__(self, message: str, *, traceback: str) -> None:
        super().__init__(message)
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.message}\n{self.traceback}" if self.traceback else self.message


class RPCError(KvtestError):
    """A ttRPC call ended with a status other than OK.

    Args:
        code: The gRPC status code.
        message: The peer's text; a client's error has the call and the code's name before it.
    """

    refused = True

    def __init__(self, code: int, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class ConnectionLostError(RPCError):
    """The connection of a call ended before its reply (gRPC code 14, UNAVAILABLE)."""

    refused = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(14, message, hint=hint)


class FrameError(KvtestError):
    """A peer sent bytes that are not ttRPC."""


class HostKernelError(KvtestError):
    """The kernel of the host has complained of itself while a test ran."""


class LeakError(KvtestError):
    """Something is left on the host that a test has made.

    Args:
        message: What, one thing a line.
        things: The things, each in one line.
    """

    def __init__(self, message: str, *, things: Iterable[str]) -> None:
        super().__init__(message)
        self.things = list(things)


class TransportError(KvtestError):
    """A channel between host and guest could not be opened."""


class DeviceError(KvtestError):
    """A guest broke the rules of a device."""


class InternalError(KvtestError):
    """Kvtest itself is at fault, seen where nobody could catch it.

    Args:
        message: What failed.
        details: The traceback, as text.
    """

    def __init__(self, message: str, details: str) -> None:
        super().__init__(message, hint="please report it with its traceback")
        self.details = details


class DeadlineExceededError(KvtestError):
    """Something awaited did not happen in time."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the hint for a name that does not exist: the nearest valid one, or all of them, or some of very many.

    Args:
        name: What the user wrote.
        known: The valid names.
    """
    import difflib  # errors are imported in guests too, where every import counts

    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    if nearest:
        return f"did you mean {nearest[0]!r}?"
    if len(names) > _MOST_NAMES:
        return f"known: {', '.join(names[:_MOST_NAMES])}, and {len(names) - _MOST_NAMES} more"
    return f"known: {', '.join(names)}" if names else "there are none"


_MOST_NAMES = 40  # in a hint
