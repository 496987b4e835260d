# SPDX-License-Identifier: Apache-2.0
"""Where an agent is: addresses as users write them, parsed into types.

The schemes are those of Kata's runtimes (``vsock``, ``hvsock``) and of its agent (``unix``, with ``@`` for a name in
the abstract name space); ``serial`` is the host socket of a virtio-serial port.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from attrs import frozen

from kvtest.errors import UsageError, suggestion
from kvtest.transport import Transport

if TYPE_CHECKING:
    from kvtest.vm import VM

_FORMS = {
    "vsock": "vsock://CID:PORT",
    "hvsock": "hvsock://PATH:PORT",
    "unix": "unix://PATH or unix://@NAME",
    "serial": "serial://PATH",
}
_HIGHEST = (1 << 32) - 2  # VMADDR_CID_ANY and VMADDR_PORT_ANY are one above (vsock(7))
_LONGEST_PATH = 107  # sun_path, with its zero byte (unix(7))
_ONLY_GUESTS = (
    "kvtest dials vsock only to guests, which /dev/vhost-vsock knows of: CIDs below 3 are the hypervisor, this machine "
    "itself and its host. An agent on this machine itself can listen at unix://@NAME (KATA_AGENT_SERVER_ADDR)"
)


@frozen
class VsockAddress:
    """A port of a guest, through the host's kernel.

    Args:
        cid: The guest.
        port: The port.
    """

    cid: int
    port: int

    def __str__(self) -> str:
        return f"vsock://{self.cid}:{self.port}"


@frozen
class HybridAddress:
    """A port of a guest, through a Unix socket of its device.

    Args:
        path: The socket.
        port: The port.
    """

    path: str
    port: int

    def __str__(self) -> str:
        return f"hvsock://{self.path}:{self.port}"


@frozen
class UnixAddress:
    """A Unix socket on which an agent itself listens.

    Args:
        path: The socket; ``@`` begins a name in the abstract name space.
    """

    path: str

    def __str__(self) -> str:
        return f"unix://{self.path}"


@frozen
class SerialAddress:
    """A virtio-serial port: one client at a time.

    Args:
        path: Its Unix socket on the host.
    """

    path: str

    def __str__(self) -> str:
        return f"serial://{self.path}"


AgentAddress = VsockAddress | HybridAddress | UnixAddress | SerialAddress


def in_machine(vm: VM, port: int) -> VsockAddress | HybridAddress:
    """Return a port of a machine's vsock, whichever serves that: the host's kernel or our device.

    Args:
        vm: The machine; it has been launched.
        port: The port.
    """
    if Transport.VHOST_VSOCK in vm.configuration.transports:
        return VsockAddress(vm.cid, port)
    return HybridAddress(str(vm.hybrid_path), port)


def parse_address(text: str) -> AgentAddress:
    """Return the address that a text means.

    Raises:
        UsageError: It means none; the message says what is wrong with it.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise UsageError(f"the agent's address {text!r} has no scheme", hint=f"known: {', '.join(_FORMS.values())}")
    if scheme not in _FORMS:
        raise UsageError(f"the agent's address {text!r} has an unknown scheme", hint=suggestion(scheme, _FORMS))
    hint = f"write {_FORMS[scheme]}"
    if scheme == "vsock":
        found = re.fullmatch(r"([0-9]+):([0-9]+)", rest)
        if found is None:
            raise UsageError(f"the agent's address {text!r} is not two numbers", hint=hint)
        return VsockAddress(_number(text, "CID", found[1], 3), _number(text, "port", found[2], 0))
    if scheme == "hvsock":
        path, separator, port = rest.rpartition(":")
        if not separator or not port.isdecimal():
            raise UsageError(f"the agent's address {text!r} does not end with a port", hint=hint)
        return HybridAddress(_path(text, path, hint), _number(text, "port", port, 0))
    if scheme == "serial":
        return SerialAddress(_path(text, rest, hint))
    return UnixAddress(rest if rest.startswith("@") and len(rest) > 1 else _path(text, rest, hint))


def _number(text: str, what: str, digits: str, least: int) -> int:
    number = int(digits)
    if not least <= number <= _HIGHEST:
        raise UsageError(
            f"the agent's address {text!r} has the {what} {digits}, which is not between {least} and {_HIGHEST}",
            hint=_ONLY_GUESTS if what == "CID" else None,
        )
    return number


def _path(text: str, path: str, hint: str) -> str:
    if not path.startswith("/"):
        raise UsageError(f"the agent's address {text!r} has no absolute path", hint=hint)
    if len(path.encode()) > _LONGEST_PATH:
        raise UsageError(f"the agent's address {text!r} has a path of more than {_LONGEST_PATH} bytes")
    return path
